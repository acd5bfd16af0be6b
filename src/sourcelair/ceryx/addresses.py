"""IP addresses: what names one without a look-up, and which are this machine's."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Network, IPv6Network
from urllib.parse import urlsplit

import psutil


def literal(host: str) -> str | None:
    """Return the IP address that a host names without any look-up, else None.

    Names under `localhost` are this machine (RFC 6761, 6.3); resolvers often do not know them.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def waker_name(url: str) -> str | None:
    """Return the name in a waker's URL that has to be looked up; None where its host is literal, or can't be called."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return host if parts.scheme == "http" and host and literal(host) is None else None


def own_addresses() -> frozenset[str]:
    """Return the addresses of this machine's interfaces."""
    return frozenset(
        address.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for address in addresses
    )


def is_local(address: str | None, own: frozenset[str]) -> bool:
    """Return whether an address is this machine's: what listens there does not outlive a reboot."""
    if address is None or address in own:
        return True
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or parsed.is_unspecified


def network_of(text: str) -> IPv4Network | IPv6Network:
    """Return an address or a range; IPv4 that is written as IPv6 is IPv4. Raises ValueError: it is neither."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and (mapped := network[0].ipv4_mapped):
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def pattern_of(network: IPv4Network | IPv6Network) -> str:
    """Return the Lua pattern that matches the addresses of a range, as `lua/lair/addresses.lua` writes them.

    That is the version, and then hexadecimal digits: `^40a` for 10.0.0.0/8.
    """
    digits = network.network_address.packed.hex()
    whole, rest = divmod(network.prefixlen, 4)
    pattern = f"^{network.version}{digits[:whole]}"
    if rest:
        first = int(digits[whole], 16)
        pattern += "[" + "".join(f"{digit:x}" for digit in range(first, first + (1 << 4 - rest))) + "]"
    return pattern
