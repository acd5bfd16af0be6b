"""What a user says of a server, checked: specs, hosts, and who may have which."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sourcelair.auth import Identity
from sourcelair.client.policy import seconds
from sourcelair.client.servers import ServerInput, Spec
from sourcelair.errors import Forbidden, InvalidInput
from sourcelair.names import normalise_host
from sourcelair.servers.context import HIDDEN, is_a_servers_own
from sourcelair.servers.drivers.base import Driver

MOST_ENV_BYTES = 128 << 10
"""Bytes of one variable: what Linux takes (MAX_ARG_STRLEN)."""

OURS = {"PORT", "LAIR_INSTANCE", "LAIR_INSTALLATION", "LAIR_URL", "LAIR_API", "LAIR_TOKEN"}
"""Variables that say what we know better."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def checked_spec(spec: Spec, drivers: Mapping[str, Driver], old: Spec | None) -> Spec:
    """Return a spec that its driver takes, with the values of variables that were sent back hidden.

    Raises:
        InvalidInput: with what to change.
    """
    driver = drivers.get(spec.driver)
    if driver is None:
        raise InvalidInput(
            f"spec.driver: there is no driver {spec.driver[:80]!r} here; there is {', '.join(sorted(drivers))}."
        )
    env = dict(spec.env)
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise InvalidInput(f"spec.env: {name[:80]!r} is not a variable's name: use letters, digits and _.")
        if name in OURS:
            raise InvalidInput(f"spec.env: {name} is set for every server, and can't be chosen.")
        if "\0" in value or len(value.encode()) > MOST_ENV_BYTES:
            raise InvalidInput(f"spec.env.{name}: a value has no NUL, and at most {MOST_ENV_BYTES >> 10} KiB.")
        if value == HIDDEN and old is not None and name in old.env:
            env[name] = old.env[name]
    if not (spec.readiness.path.isascii() and spec.readiness.path.isprintable()):
        raise InvalidInput("spec.readiness.path: write what is no printable ASCII as a URL does, such as %C3%A9 for é.")
    checked = spec.model_copy(update={"env": env})
    driver.check(checked)
    if seconds(spec.sleep.doze_after) is not None and "pause" not in driver.capabilities:
        raise InvalidInput(f"spec.sleep.doze_after: the driver {driver.name} can't freeze a server on this machine.")
    return checked


def checked_hosts(identity: Identity, body: ServerInput, primary: str, domain: str, before: list[str]) -> list[str]:
    """Return the further hosts of a server, in the form that is stored.

    Raises:
        InvalidInput: one is no host, or is made of an owner's and a project's name.
        Forbidden: only administrators give further hosts.
    """
    hosts: list[str] = []
    for host in body.hosts:
        clean = normalise_host(host)
        if clean == primary or clean in hosts:
            continue
        if is_a_servers_own(clean, domain):
            raise InvalidInput(f"hosts: {clean} belongs to the server of that name, and to no other.")
        hosts.append(clean)
    if sorted(hosts) != sorted(before) and identity.kind not in {"admin", "service"}:
        raise Forbidden("hosts: only an administrator gives a server further hosts.")
    return hosts
