"""The model can fail: each deliberate mistake in the protocol is found, in a bounded number of examples.

A model that passes proves nothing until it has been seen to fail; these are the holes that the protocol's rules close.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.protocol.actors import ProtocolViolation
from tests.protocol.machine import ProtocolMachine
from tests.protocol.test_protocol import QUICK

FIND = settings(
    QUICK,
    max_examples=8000,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
)
"""Found means found: the first example that fails is enough, shrinking it would only take time."""

MUTANTS = {
    "no second look": "section 3: look up, then count, and go",
    "free ports without acknowledgements": "section 6: a port is free as soon as its instance is gone",
    "stop whatever the totals": "section 5: an idle stop that asks only whether anything is in flight",
    "acknowledge before applying": "section 4: the counts are read before NGINX has the withdrawal",
    "write whatever the revision": "section 2: a managed write that lands late undoes a withdrawal",
    "snapshot before registering": "section 4: a node's snapshot is older than its registration",
    "no journal": "section 4: a withdrawal is acknowledged, and is not on the node's disk",
    "no fence in the table": "section 4: changes of older sessions and revisions are applied",
    "ignore claims": "section 7: a start that is on its way runs although its record was cleaned up",
    "any acknowledgement counts": "section 4: a late one of a cancelled drain proves the next",
}


@pytest.mark.parametrize("mutation", MUTANTS, ids=lambda name: name.replace(" ", "-"))
def test_the_model_finds_the_mistake(mutation: str) -> None:
    """Each of these mistakes breaks a promise, and the model sees it."""
    machine = type("Mutant", (ProtocolMachine,), {"mutation": mutation})
    with pytest.raises(ProtocolViolation):
        run_state_machine_as_test(machine, settings=FIND)
