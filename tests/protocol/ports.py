"""When a port may be given out again (PROTOCOL 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.actors import WAIT, Steps

if TYPE_CHECKING:
    from tests.protocol.servers import Api


def release_ports(api: Api) -> Steps:
    """Free a port when its instance is gone and every node acknowledged the withdrawal with nothing in flight.

    The pool's idle time, the third condition, is not modelled: a pooled connection dies with its process here.
    """
    while True:
        moved = False
        for port, held in list(api.ports.items()):
            if any(record.instance == held.instance for record in api.records.values()):
                continue
            if api.world.mutation != "free ports without acknowledgements":
                answer = None if held.withdrawn is None else api.ask(held.instance, held.withdrawn)
                if answer is None or not answer.acknowledged or answer.in_flight:
                    continue
            yield
            del api.ports[port]
            api.world.ceryx.asks.pop(held.instance, None)
            moved = True
        yield None if moved else WAIT
