"""The model can fail: each deliberate mistake in the protocol is found, in a bounded number of examples.

A model that passes proves nothing until it has been seen to fail; these are the holes that the protocol's rules close.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.protocol.actors import ProtocolViolation
from tests.protocol.machine import ProtocolMachine
from tests.protocol.sleep_machine import SleepMachine
from tests.protocol.test_protocol import QUICK

FIND = settings(
    QUICK,
    max_examples=2000,
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


SLEEP_MUTANTS = {
    "publish before the thaw": "section 5: a visit is let through to what is still frozen",
    "freeze before all acknowledgements": "section 5: it is frozen as soon as the withdrawal is written",
    "freeze, then record it": "section 5: after a crash between, a frozen one looks like a cancelled drain",
    "recovery publishes what is frozen": "section 5: after a crash every dozing server is awake again, by its record",
    "recovery thaws only what it finds frozen": "section 5: a freeze that was under way ends after the look",
    "a freeze outlives its sender": "section 5: a driver whose freeze is a message, and lands after the recovery",
    "doze under an idle stream": "section 5: a stream that keeps nothing awake does not prevent a doze",
    "no stream prevents an idle stop": "section 5: streams that do keep it awake are cut",
    "bytes that flow are no visit": "section 4: what moved in a stream since the sleeper looked is in no total",
    "what keeps it awake is not looked at again": "section 5: busy or extended is acknowledged while it drains",
    "a window that opens is not looked at again": "section 5: a window of its schedule begins while it drains",
    "the end of a drain is stored without a look": "section 5: what came while the disk was slow is not seen",
    "a stop of what dozes is stored without a look": "section 5: who came while the disk was slow is not seen",
    "an interruption that is over goes on": "section 5: what was interrupted was never acknowledged by the nodes",
    "no check before a doze": "section 5: an instance that does not want to be frozen is",
    "no answer to the check agrees": "section 5: an instance that is reloading is stopped unasked",
    "a stop of what dozes names only the instance": "section 5: the decision is older than a visit and the next doze",
    "a stop of what dozes compares the totals": "section 5: counts that were forgotten never look the same again",
    "a decision names only the instance and the totals": "section 5: forgotten counts look the same",
    "the revision is read after the counts": "section 5: it is newer than the counts, and fences nothing",
    "what is in flight is forgotten": "section 4: a request that was counted is counted no more",
    "a new agent has missed no bytes": "section 4: what moved in a stream while there was no agent is not seen",
    "a frozen one is signalled as it is": "section 5: no signal reaches what is frozen",
    "a visit starts what was given up": "section 5: only a person starts it after so many failures",
}


@pytest.mark.parametrize("mutation", [*MUTANTS, *SLEEP_MUTANTS], ids=lambda name: name.replace(" ", "-"))
def test_the_model_finds_the_mistake(mutation: str) -> None:
    """Each of these mistakes breaks a promise, and the model sees it."""
    base = ProtocolMachine if mutation in MUTANTS else SleepMachine
    machine = type("Mutant", (base,), {"mutation": mutation})
    with pytest.raises(ProtocolViolation):
        run_state_machine_as_test(machine, settings=FIND)
