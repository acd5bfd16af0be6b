"""The life of a server as pure functions, with a clock that a test moves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sourcelair.client.ceryx import NodeAcknowledgement, NodeTotal, Withdrawal
from sourcelair.client.policy import Limits, Policy, SleepPolicy, WakePolicy
from sourcelair.client.servers import Exit, Readiness, Spec
from sourcelair.errors import Unavailable
from sourcelair.servers import backoff, drains, machine
from sourcelair.servers.records import ServerRecord, decode, encode
from sourcelair.store.base import Entry

NOW = 1000.0


def asleep(**values: Any) -> ServerRecord:
    return ServerRecord(owner="demo", project="blog", spec=Spec(), created_at=0, changed_at=0, **values)


def starting(instance: str = "i1", **values: Any) -> ServerRecord:
    return machine.begin_start(asleep(desired="awake", **values), instance, 20000, NOW)


def awake(**values: Any) -> ServerRecord:
    record = starting(**values)
    return machine.became_awake(record, machine.instance_of(record), 7, None, NOW)


def ended(instance: str = "i1", **values: Any) -> Exit:
    return Exit(instance=instance, reason="it exited with code 1", at=NOW, **values)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (100, 300), (10**6, 300)]
)
def test_back_off_doubles_and_ends(failures: int, seconds: float) -> None:
    assert backoff.backoff(failures) == seconds


def test_a_failed_start_is_held_back_and_a_stop_forgets_that() -> None:
    record = machine.gone(machine.begin_drain(starting(), "exit", NOW, 0), ended(), ["why"], NOW)
    assert (record.state, record.failures, record.retry_at) == ("failed", 1, NOW + 1)
    assert (record.failure, record.failure_log) == ("it exited with code 1", ["why"])
    wanted = machine.want_awake(record, "a visit", NOW)
    assert not machine.may_start(wanted, NOW + 0.9)
    assert machine.may_start(wanted, NOW + 1)
    again = machine.begin_start(wanted, "i2", 20001, NOW + 1)
    assert again.failure is None
    assert (again.failures, again.given_up) == (1, False)
    stopped = machine.begin_drain(machine.want_asleep(again, "stopped by a user", NOW), "explicit", NOW, 0)
    assert machine.gone(machine.begin_stopping(stopped, NOW), ended("i2"), [], NOW).failures == 0


@pytest.mark.parametrize(("after", "failures", "pause"), [(1.0, 1, 0.0), (9.9, 1, 0.0), (10.0, 0, None)])
def test_a_crash_shortly_after_the_start_counts(after: float, failures: int, pause: float | None) -> None:
    """The first is woken by the next visit at once; from the second on it is held back."""
    now = NOW + after
    record = machine.gone(machine.begin_drain(awake(), "exit", now, 0), ended(), [], now)
    assert (record.state, record.failures) == ("asleep", failures)
    assert record.retry_at == (None if pause is None else now + pause)
    assert record.desired == "asleep"


def test_an_idle_drain_can_be_taken_back_and_an_explicit_one_never() -> None:
    idle = machine.begin_drain(awake(), "idle", NOW, 2)
    assert machine.cancel_drain(idle, NOW).state == "awake"
    for kind in ("explicit", "exit"):
        with pytest.raises(machine.IllegalStep):
            machine.cancel_drain(machine.begin_drain(awake(), kind, NOW, 30), NOW)  # type: ignore[arg-type]


def test_a_visitor_during_an_explicit_stop_wakes_the_next_instance() -> None:
    stopping = machine.begin_stopping(
        machine.begin_drain(machine.want_asleep(awake(), "stopped by a user", NOW), "explicit", NOW, 30), NOW
    )
    wanted = machine.want_awake(stopping, "a visit", NOW)
    assert (wanted.state, wanted.stop_instance) == ("stopping", "i1")
    assert machine.may_start(machine.gone(wanted, ended(), [], NOW), NOW)


def test_after_an_idle_stop_nobody_starts_it() -> None:
    record = machine.begin_stopping(machine.begin_drain(awake(), "idle", NOW, 2), NOW)
    assert (record.desired, record.cause) == ("asleep", "idle")
    assert not machine.may_start(machine.gone(record, ended(), [], NOW), NOW)


def dozing(**values: Any) -> ServerRecord:
    return machine.begin_dozing(machine.begin_drain(awake(**values), "doze", NOW, 2), NOW + 1)


def test_a_doze_keeps_the_instance_and_since_when_it_is_awake() -> None:
    record = dozing()
    assert (record.state, record.desired, record.cause, record.actor) == ("dozing", "asleep", "idle", "hemera")
    assert (record.drain, record.drain_until, record.changed_at) == (None, None, NOW + 1)
    again = machine.thawed(record, 9, None, NOW + 50, cause="a visit", actor="visitor")
    assert (again.state, again.desired, again.cause, again.actor) == ("awake", "awake", "a visit", "visitor")
    assert again.instance is not None
    assert (again.instance.id, again.instance.awake_at, again.instance.thawed_at) == ("i1", NOW, NOW + 50)
    assert again.route_revision == 9


def test_only_the_drain_of_a_doze_ends_in_one_and_only_a_doze_is_thawed() -> None:
    for kind in ("idle", "explicit", "exit"):
        with pytest.raises(machine.IllegalStep):
            machine.begin_dozing(machine.begin_drain(awake(), kind, NOW, 2), NOW)  # type: ignore[arg-type]
    with pytest.raises(machine.IllegalStep):
        machine.thawed(awake(), 1, None, NOW, cause="a visit", actor="visitor")


def test_the_drain_of_a_doze_can_be_taken_back() -> None:
    assert machine.cancel_drain(machine.begin_drain(awake(), "doze", NOW, 2), NOW).state == "awake"


def test_a_stop_that_comes_during_a_thaw_stays_asked_for() -> None:
    stopped = machine.want_asleep(dozing(), "stopped by a user", NOW, actor="owner")
    record = machine.thawed(stopped, 9, None, NOW, cause="a visit", actor="visitor")
    assert (record.state, record.desired, record.cause, record.actor) == (
        "awake", "asleep", "stopped by a user", "owner",
    )  # fmt: skip
    assert machine.stop_asked(record)


def test_from_a_doze_an_idle_stop_needs_no_drain() -> None:
    record = machine.begin_stopping(dozing(), NOW)
    assert (record.state, record.drain, record.desired, record.actor) == ("stopping", "idle", "asleep", "hemera")


def test_the_end_of_one_instance_is_no_users_stop() -> None:
    """What is kept awake starts the next one; of another instance, and beside a user's stop, it says nothing."""
    record = machine.want_ended(awake(), "i1", machine.LIFETIME_OVER, NOW, actor="policy")
    assert (record.desired, record.stop_instance, record.stopped_at, record.actor) == ("asleep", "i1", None, "policy")
    kept = machine.want_ended(awake(always_on=True), "i1", machine.LIFETIME_OVER, NOW, actor="policy")
    assert (kept.desired, kept.stop_instance) == ("awake", "i1")
    assert machine.want_ended(awake(), "i0", "", NOW, actor="policy") == awake()
    stopped = machine.want_asleep(awake(always_on=True), "stopped by a user", NOW, actor="owner")
    assert machine.want_ended(stopped, "i1", "", NOW, actor="policy") == stopped


def failing(times: int, **values: Any) -> ServerRecord:
    record = asleep(policy=Policy(wake=WakePolicy(tries=3)), desired="awake", **values)
    for number in range(times):
        record = machine.begin_start(machine.want_awake(record, "a visit", NOW), f"i{number}", 20000, NOW)
        record = machine.start_failed(record, "no", ["why"], NOW)
    return record


def test_tries_are_used_up_and_only_a_person_or_another_spec_tries_again() -> None:
    record = failing(2)
    assert (record.given_up, record.retry_at) == (False, NOW + 2)
    record = failing(3)
    assert (record.state, record.given_up, record.retry_at, record.failure_log) == ("failed", True, None, ["why"])
    assert not machine.may_start(machine.want_awake(record, "a visit", NOW), NOW + 10**6)
    again = machine.want_another_try(record, "user", NOW, actor="owner")
    assert machine.may_start(again, NOW) and (again.failures, again.actor) == (0, "owner")
    other = record.model_copy(update={"spec": Spec(readiness=Readiness(path="/health"))})
    changed = machine.want_awake(machine.reconfigure(record, other, NOW), "a visit", NOW)
    assert machine.may_start(changed, NOW)
    switched = machine.reconfigure(record, record.model_copy(update={"always_on": True}), NOW)
    assert machine.may_start(switched, NOW)


def test_what_is_kept_awake_goes_on_trying_at_the_longest_pause() -> None:
    record = failing(3, always_on=True)
    assert (record.given_up, record.retry_at, record.desired) == (False, NOW + backoff.LONGEST_BACKOFF, "awake")


def test_flapping_uses_up_the_tries_too() -> None:
    """Ready, and dead within ten seconds, again and again."""
    record = asleep(policy=Policy(wake=WakePolicy(tries=3)))
    pauses = []
    for number in range(3):
        record = machine.begin_start(machine.want_awake(record, "a visit", NOW), f"i{number}", 20000, NOW)
        record = machine.became_awake(record, machine.instance_of(record), 1, None, NOW)
        record = machine.gone(machine.begin_drain(record, "exit", NOW, 0), ended(), ["why"], NOW + 9)
        pauses.append(record.retry_at)
    assert pauses == [NOW + 9, NOW + 10, None]
    assert (record.state, record.given_up, record.failure, record.failure_log) == (
        "failed", True, "it exited with code 1", ["why"],
    )  # fmt: skip


def test_this_machines_fault_uses_up_no_try() -> None:
    record = failing(2)
    for _ in range(5):
        record = machine.not_its_fault(record, "no port", NOW)
    assert (record.failures, record.given_up, record.retry_at) == (2, False, NOW + 1)


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({"driver": "other"}, True),
        ({"command": ["true"]}, True),
        ({"directory": "/srv"}, True),
        ({"env": {"A": "1"}}, True),
        ({"limits": Limits(processes=5)}, True),
        ({"readiness": Readiness(path="/health")}, False),
        ({"sleep": SleepPolicy(stop_after=5)}, False),
        ({"wake": WakePolicy(patience=0)}, False),
    ],
)
def test_only_what_a_process_is_made_of_restarts_it(change: dict[str, Any], restarts: bool) -> None:
    old = awake()
    new = old.model_copy(update={"spec": old.spec.model_copy(update=change)})
    assert machine.stop_asked(machine.reconfigure(old, new, NOW)) is restarts


def test_another_spec_is_no_users_stop() -> None:
    """A schedule that is open starts it again."""
    old = awake()
    new = old.model_copy(update={"spec": Spec(command=["true"])})
    assert machine.reconfigure(old, new, NOW).stopped_at is None


def test_everything_says_who_did_it() -> None:
    record = machine.want_awake(asleep(), "a visit", NOW, actor="visitor")
    assert (record.cause, record.actor) == ("a visit", "visitor")
    record = machine.begin_relisten(awake(), NOW)
    assert (record.cause, record.actor) == ("it stopped listening", "instance")
    record = machine.gone(machine.begin_drain(awake(), "exit", NOW, 0), ended(), [], NOW)
    assert record.actor == "instance"
    record = machine.begin_stopping(machine.begin_drain(awake(), "idle", NOW, 2), NOW)
    assert record.actor == "hemera"
    for stopped in (
        machine.want_asleep(awake(), "stopped by a user", NOW, actor="admin"),
        machine.want_restart(awake(), NOW, actor="admin"),
        machine.want_removed(awake(), NOW, actor="admin"),
        machine.reconfigure(awake(), awake().model_copy(update={"enabled": False}), NOW, actor="admin"),
    ):
        assert stopped.actor == "admin" and stopped.cause


@pytest.mark.parametrize("change", [{"enabled": False}, {"removing": True}])
def test_what_must_not_run_is_never_wanted(change: dict[str, bool]) -> None:
    record = asleep(**change)
    assert machine.want_awake(record, "a visit", NOW) == record


def test_another_spec_stops_the_instance_and_forgets_failures() -> None:
    failed = machine.start_failed(starting(), "no", [], NOW)
    new = failed.model_copy(update={"spec": Spec(command=["true"])})
    assert machine.reconfigure(failed, new, NOW).retry_at is None
    old = awake()
    changed = machine.reconfigure(old, old.model_copy(update={"spec": Spec(command=["true"])}), NOW)
    assert changed.stop_instance == "i1"
    same = machine.reconfigure(old, old, NOW)
    assert same.stop_instance is None


def test_two_instances_are_a_mistake() -> None:
    with pytest.raises(machine.IllegalStep):
        machine.begin_start(awake(), "i2", 20001, NOW)


@pytest.mark.parametrize(
    ("code", "signal", "memory", "said"),
    [
        (None, None, False, "it ended"),
        (0, None, False, "it exited with code 0"),
        (None, 9, False, "it was killed by signal 9"),
        (None, 9, True, "it was killed for using too much memory"),
    ],
)
def test_exits_are_described(code: int | None, signal: int | None, memory: bool, said: str) -> None:
    assert machine.describe_exit(code, signal, out_of_memory=memory) == said


SIGNALLED = {("draining", kind) for kind in ("idle", "explicit", "exit")}


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order: one instance at most, and a way back to where a visit succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.record = asleep(policy=Policy(wake=WakePolicy(tries=3)))
        self.now = NOW
        self.names = itertools.count(1)

    @rule(seconds=st.floats(0, 400))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def visit(self) -> None:
        self.record = machine.want_awake(self.record, "a visit", self.now)

    @rule()
    def stop(self) -> None:
        self.record = machine.want_asleep(self.record, "stopped", self.now)

    @rule()
    def restart(self) -> None:
        if self.record.enabled:
            self.record = machine.want_restart(self.record, self.now)

    @rule(enabled=st.booleans(), always_on=st.booleans(), command=st.sampled_from(["a", "b"]))
    def reconfigure(self, enabled: bool, always_on: bool, command: str) -> None:
        changes = {"enabled": enabled, "always_on": always_on, "spec": Spec(command=[command])}
        self.record = machine.reconfigure(self.record, self.record.model_copy(update=changes), self.now)

    @precondition(lambda self: machine.may_start(self.record, self.now))
    @rule()
    def start(self) -> None:
        self.record = machine.begin_start(self.record, f"i{next(self.names)}", 20000, self.now)

    @precondition(lambda self: self.record.state == "starting")
    @rule()
    def ready(self) -> None:
        self.record = machine.became_awake(self.record, machine.instance_of(self.record), 1, None, self.now)

    @precondition(lambda self: self.record.state == "awake")
    @rule()
    def relisten(self) -> None:
        self.record = machine.begin_relisten(self.record, self.now)

    @precondition(lambda self: self.record.state in {"starting", "awake", "dozing"})
    @rule(kind=st.sampled_from(["idle", "doze", "explicit", "exit"]))
    def drain(self, kind: Any) -> None:
        if kind in {"idle", "doze"} and self.record.state != "awake":
            return
        self.record = machine.begin_drain(self.record, kind, self.now, 2)

    @precondition(lambda self: self.record.drain == "doze")
    @rule()
    def doze(self) -> None:
        self.record = machine.begin_dozing(self.record, self.now)

    @precondition(lambda self: self.record.state == "dozing")
    @rule()
    def thaw(self) -> None:
        self.record = machine.thawed(self.record, 1, None, self.now, cause="a visit", actor="visitor")

    @precondition(lambda self: self.record.instance is not None)
    @rule()
    def end(self) -> None:
        instance = machine.instance_of(self.record).id
        self.record = machine.want_ended(self.record, instance, "memory pressure", self.now, actor="memory")

    @rule()
    def try_again(self) -> None:
        self.record = machine.want_another_try(self.record, "user", self.now, actor="owner")

    @precondition(lambda self: self.record.drain in {"idle", "doze"} and self.record.state == "draining")
    @rule()
    def cancel(self) -> None:
        self.record = machine.cancel_drain(self.record, self.now)

    @precondition(lambda self: self.record.state == "dozing" or (self.record.state, self.record.drain) in SIGNALLED)
    @rule()
    def signal(self) -> None:
        self.record = machine.begin_stopping(self.record, self.now)

    @precondition(lambda self: self.record.state == "stopping")
    @rule()
    def gone(self) -> None:
        instance = machine.instance_of(self.record).id
        self.record = machine.gone(self.record, ended(instance), [], self.now)

    @precondition(lambda self: self.record.state == "starting")
    @rule()
    def fail(self) -> None:
        self.record = machine.start_failed(self.record, "no", [], self.now)

    @invariant()
    def an_instance_exists_where_one_must(self) -> None:
        resting = self.record.state in {"asleep", "failed"}
        assert (self.record.instance is None) == resting
        assert self.record.stop_instance in {None, self.record.instance_id}

    @invariant()
    def a_drain_has_a_kind_and_nothing_else_does(self) -> None:
        assert (self.record.drain is not None) == (self.record.state in {"draining", "stopping"})

    @invariant()
    def a_visit_succeeds_in_the_end(self) -> None:
        """From here, with everything going well and no more than the longest pause."""
        record, now = machine.want_awake(self.record, "a visit", self.now), self.now
        if record.state == "dozing":
            thawed = machine.thawed(record, 1, None, now, cause="a visit", actor="visitor")
            assert thawed.state == "awake"
            record = machine.begin_stopping(record, now)
        if record.state == "draining":
            record = machine.begin_stopping(record, now)
        if record.state == "stopping":
            wanted = machine.want_awake(record, "a visit", now)
            record = machine.gone(wanted, ended(machine.instance_of(wanted).id), [], now)
            record = machine.want_awake(record, "a visit", now)
        if record.state in {"asleep", "failed"}:
            asked = machine.want_another_try(record, "user", now, actor="owner") if record.given_up else record
            assert machine.may_start(asked, now + backoff.LONGEST_BACKOFF) == record.enabled

    @invariant()
    def what_is_given_up_has_failed_and_is_not_kept_awake(self) -> None:
        if self.record.given_up:
            assert self.record.state == "failed"
            assert self.record.retry_at is None

    @invariant()
    def somebody_did_it(self) -> None:
        assert (self.record.cause is None) == (self.record.actor is None)


TestLife = Life.TestCase


def withdrawal(*nodes: NodeAcknowledgement) -> Withdrawal:
    return Withdrawal(instance="i1", revision=5, nodes=list(nodes))


def node(
    name: str,
    total: int = 3,
    *,
    generation: str = "g",
    in_flight: int = 0,
    idle_streams: int = 0,
    robots: int = 0,
    told: bool = True,
) -> NodeAcknowledgement:
    return NodeAcknowledgement(
        node=name, state="live", acknowledged=told, generation=generation, in_flight=in_flight, streams=idle_streams,
        idle_streams=idle_streams, total=total, robots=robots,
    )  # fmt: skip


def total(name: str, count: int = 3, generation: str = "g") -> NodeTotal:
    return NodeTotal(node=name, generation=generation, total=count)


@pytest.mark.parametrize(
    ("state", "seen", "why"),
    [
        (withdrawal(node("a")), [total("a")], None),
        (withdrawal(node("a"), node("b", 9)), [total("a"), total("b", 9)], None),
        (withdrawal(node("a", told=False)), [total("a")], "does not answer"),
        (withdrawal(node("a", in_flight=1)), [total("a")], "in flight"),
        (withdrawal(node("a", 4)), [total("a")], "visited"),
        (withdrawal(node("a", 5, robots=2)), [total("a")], None),
        (withdrawal(node("a", 5, robots=1)), [total("a")], "visited"),
        (withdrawal(node("a")), [], "visited"),
        (withdrawal(node("a", generation="new")), [total("a")], "visited"),
        (withdrawal(node("a")), [total("a"), total("b")], "visited"),
        (withdrawal(node("a", in_flight=2, idle_streams=1)), [total("a")], "in flight"),
        (withdrawal(node("a", in_flight=1, idle_streams=1)), [total("a")], None),
        (withdrawal(), [], None),
    ],
)
def test_why_an_idle_stop_must_not_go_on(state: Withdrawal, seen: list[NodeTotal], why: str | None) -> None:
    found = drains.why_not(state, seen)
    assert found is None if why is None else found is not None and why in found


def test_what_freezes_cuts_no_stream() -> None:
    """Whatever its owner says of streams: one that is open is felt as soon as its app stands still."""
    state = withdrawal(node("a", in_flight=1, idle_streams=1))
    assert drains.why_not(state, [total("a")], doze=True) == "a request is in flight"
    assert drains.why_not(withdrawal(node("a")), [total("a")], doze=True) is None


def test_records_of_a_newer_version_are_refused_and_named() -> None:
    record = asleep()
    entry = Entry(key=record.key, value=encode(record), create_revision=1, mod_revision=1, version=1, lease=None)
    assert decode(ServerRecord, entry) == record
    newer = entry.value.replace(b'"schema_version":1', b'"schema_version":99').replace(b'"spec"', b'"plan"')
    with pytest.raises(Unavailable, match=r"/servers/demo/blog.*newer version"):
        decode(ServerRecord, Entry(**{**{name: getattr(entry, name) for name in entry.__slots__}, "value": newer}))
