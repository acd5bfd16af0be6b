"""Policies on the command line: what is typed, what is shown, and who said what is in effect."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.cli.conftest import Api, Done, Run, a_server

from sourcelair.cli import policies
from sourcelair.client.policy import Limits, Policy, QuietRule, SleepPolicy, WakePolicy, Window
from sourcelair.errors import InvalidInput

OWNER = "/api/owners/ann/"
ONE = "/api/servers/demo/blog/"
FULL = Policy(
    sleep=SleepPolicy(
        doze_after=90,
        stop_after="never",
        min_awake=0,
        max_lifetime=86400,
        streams="flow",
        check="/may-sleep",
        schedule=[Window(days=["fri", "sat"], start="09:00", end="24:00", timezone="Europe/Athens")],
        warn_before=0.5,
    ),
    wake=WakePolicy(
        patience=1.5, tries=3, show_log=True, quiet=[QuietRule(path="/health*", agent="Uptime Robot", wakes=True)]
    ),
    limits=Limits(processes=10, memory_bytes=512 << 20, cpus=0.5),
)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("mon-fri 9:00-17:00 Europe/Athens", (["mon", "tue", "wed", "thu", "fri"], "09:00", "17:00", "Europe/Athens")),
        ("sat,sun 22:30-6:00", (["sat", "sun"], "22:30", "06:00", "UTC")),
        ("FRI-MON 8:00-24:00", (["fri", "sat", "sun", "mon"], "08:00", "24:00", "UTC")),
        ("daily 00:00-12:00 UTC", (list(policies.DAYS), "00:00", "12:00", "UTC")),
        ("mon,mon-tue 1:00-2:00", (["mon", "tue"], "01:00", "02:00", "UTC")),
    ],
)
def test_a_time_of_the_week(text: str, window: tuple[Any, ...]) -> None:
    made = Window(**policies.window(text))
    assert (made.days, made.start, made.end, made.timezone) == window


@pytest.mark.parametrize("text", ["", "mon", "mon 9-17", "everyday 9:00-17:00", "mon- 9:00-17:00", "mo 9:00-17:00"])
def test_what_is_no_time_of_the_week(text: str) -> None:
    with pytest.raises(InvalidInput):
        policies.window(text)


def test_a_rule_of_an_unknown_kind_names_all_there_are() -> None:
    with pytest.raises(InvalidInput, match="'foo' is nothing that a rule says: path, method, agent"):
        policies.rule("foo=1")


def test_a_rule() -> None:
    assert policies.rule('path=/a* agent="Uptime Robot"') == {"path": "/a*", "agent": "Uptime Robot"}
    for text in ("", "/health", "path=/a method", '"'):
        with pytest.raises(InvalidInput):
            policies.rule(text)


def test_what_is_shown_may_be_typed_again() -> None:
    """All of it, one key after the other."""
    typed = [f"{key}={text}" for key, text in policies.lines(FULL)]
    assert len(typed) == 15
    assert Policy.model_validate(policies.assigned(typed)) == FULL


def owner(lair: Run, api: Api, stored: Policy | None, *arguments: str) -> tuple[Done, Any]:
    """Run `lair policy ann`; return what it said, and what it sent."""
    if stored is not None:
        etagged(api, stored, 4)
    api.answers["PUT", OWNER] = lambda body: (200, "application/json", json.dumps(body).encode())
    api.headers["ETag"] = '"4"'
    done = lair("policy", "ann", *arguments)
    sent = [(body, headers) for method, _, body, headers in api.seen if method == "PUT"]
    return done, sent[0] if sent else None


def etagged(api: Api, policy: Policy, revision: int) -> None:
    api.answer("GET", OWNER, policy.model_dump())
    api.headers["ETag"] = f'"{revision}"'


def test_an_owner_without_a_policy(lair: Run, api: Api) -> None:
    done, sent = owner(lair, api, None)
    assert (done.code, sent) == (0, None) and "installation's settings" in done.out
    done, _ = owner(lair, api, None, "--json")
    assert json.loads(done.out) == {"owner": "ann", "policy": None, "revision": 0}


def test_the_first_thing_that_an_owner_says(lair: Run, api: Api) -> None:
    """Nobody else's is overwritten."""
    done, sent = owner(lair, api, None, "sleep.doze_after=10m", "wake.show_log=yes", "limits.memory_bytes=1G")
    body, headers = sent
    assert (done.code, headers["If-None-Match"]) == (0, "*")
    assert (body["sleep"]["doze_after"], body["wake"]["show_log"]) == (600, True)
    assert body["limits"]["memory_bytes"] == 1 << 30
    assert done.out == "sleep.doze_after     10m\nwake.show_log        yes\nlimits.memory_bytes  1024M\n"


def test_a_change_keeps_the_rest(lair: Run, api: Api) -> None:
    done, sent = owner(lair, api, FULL, "sleep.stop_after=2h", "--unset", "limits.cpus", "--unset", "sleep.schedule")
    body, headers = sent
    assert (done.code, headers["If-Match"]) == (0, '"4"')
    wanted = FULL.model_dump()
    wanted["sleep"] |= {"stop_after": 7200.0, "schedule": None}
    wanted["limits"]["cpus"] = None
    assert body == wanted


def test_rules_and_windows_replace_those_there_were(lair: Run, api: Api) -> None:
    rules = [{"path": "/x", "method": "GET"}]
    _, sent = owner(lair, api, FULL, f"wake.quiet={json.dumps(rules)}", "sleep.schedule=mon 9:00-10:00; tue 9:00-10:00")
    assert [rule["path"] for rule in sent[0]["wake"]["quiet"]] == ["/x"]
    assert [window["days"] for window in sent[0]["sleep"]["schedule"]] == [["mon"], ["tue"]]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("sleep.doze=1m", "sleep.doze_after"),
        ("doze_after", "write sleep.stop_after=10m"),
        ("sleep.stop_after=soon", "not a time"),
        ("sleep.stop_after=0", "sleep.stop_after: write a number of seconds greater than 0, or never"),
        ("sleep.streams=sometimes", "sleep.streams"),
        ("wake.quiet=[", "wake.quiet"),
        ("wake.tries=0", "wake.tries"),
    ],
)
def test_what_makes_no_sense_is_bad_usage(lair: Run, api: Api, argument: str, said: str) -> None:
    done, sent = owner(lair, api, FULL, argument)
    assert (done.code, sent) == (2, None)
    assert said in done.error


def test_create_has_options_for_all_of_it(lair: Run, api: Api) -> None:
    api.answer("PUT", ONE, a_server(), 201)
    done = lair(
        "create", "demo/blog", "--doze", "90s", "--idle", "never", "--min-awake", "0", "--lifetime", "1d",
        "--streams", "flow", "--check", "/may-sleep", "--schedule", "fri-sat 9:00-24:00 Europe/Athens",
        "--patience", "1.5", "--wake-timeout", "2m", "--tries", "3", "--show-log",
        "--quiet", "path=/health* method=GET", "--quiet", "agent=Robot", "--cpus", "0.5", "--", "sh",
    )  # fmt: skip
    assert done.code == 0, done.err
    ((_, _, body, _),) = api.seen
    spec = body["spec"]
    given = {name: value for name, value in spec["sleep"].items() if value is not None}
    assert given == {
        "doze_after": 90, "stop_after": "never", "min_awake": 0, "max_lifetime": 86400, "streams": "flow",
        "check": "/may-sleep",
        "schedule": [{"days": ["fri", "sat"], "start": "09:00", "end": "24:00", "timezone": "Europe/Athens"}],
    }  # fmt: skip
    quiet = [QuietRule(path="/health*", method="GET").model_dump(), QuietRule(agent="Robot").model_dump()]
    assert spec["wake"] == {"patience": 1.5, "timeout": 120, "tries": 3, "show_log": True, "quiet": quiet}
    assert spec["limits"]["cpus"] == 0.5


@pytest.mark.parametrize(
    "options", [["--schedule", "sometimes"], ["--quiet", "path"], ["--streams", "x"], ["--doze", "x"], ["--cpus", "0"]]
)
def test_create_refuses_what_makes_no_sense(lair: Run, api: Api, options: list[str]) -> None:
    done = lair("create", "demo/blog", *options, "--", "sh")
    assert (done.code, api.seen) == (2, [])
    assert done.error.startswith("lair: ")


def test_show_says_what_is_in_effect_and_who_said_it(lair: Run, api: Api) -> None:
    """And how long it will be awake, and how long its starts take."""
    now = time.time()
    timing = {"queued": 1.0, "published": 1500.0}
    instance = {"id": "i1", "busy_until": now + 3000, "extended_until": now - 5}
    effective = Policy(
        sleep=SleepPolicy(stop_after=900, doze_after=60, warn_before=60),
    ).model_dump()
    server = a_server(
        state="awake", cause="visit", actor="visitor", policy=effective, instance=instance,
        spec={"command": ["true"], "sleep": {"stop_after": 900}},
    )  # fmt: skip
    api.answer("GET", ONE, server)
    api.answer("GET", "/api/owners/demo/", Policy(sleep=SleepPolicy(doze_after=60)).model_dump())
    api.headers["ETag"] = '"3"'
    histogram = {"1000": 0, "2000": 6, "inf": 2}
    report = {"starts": 8, "usual": 1500.0, "breakdown": timing, "histogram": histogram, "last": [timing, timing]}
    api.answer("GET", f"{ONE}report", report)
    api.answer("GET", "/api/time-left/demo/blog/", {"state": "awake", "seconds_left": 125.0, "reason": "idle"})
    out = lair("show", "demo/blog").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "state awake (visit, by visitor)" in lines
    assert any(line.startswith("busy until ") and line.endswith(" min)") for line in lines)
    assert not any(line.startswith("extended") for line in lines), "that is over"
    assert "sleeps in 2 min (idle)" in lines
    assert "usual start 1.5 s (median of the last 2 of 8 cold starts)" in lines
    assert "breakdown queued 1.0 ms, published 1500.0 ms" in lines
    assert "last starts 1.5 s, 1.5 s" in lines
    assert f"histogram up to 2 s {'#' * 30} 6" in lines
    assert f"over 2 s {'#' * 10} 2" in lines
    assert {"policy sleep.doze_after 1m (owner)", "sleep.stop_after 15m (server)", "sleep.warn_before 1m"} <= set(lines)
    shown = json.loads(lair("show", "demo/blog", "--json").out)
    assert shown["owner"] == "demo" and shown["report"]["starts"] == 8
    assert shown["time_left"]["seconds_left"] == 125 and shown["owner_policy"]["sleep"]["doze_after"] == 60


def test_show_needs_none_of_that(lair: Run, api: Api) -> None:
    api.answer("GET", ONE, a_server())
    done = lair("show", "demo/blog")
    assert done.code == 0 and "histogram" not in done.out and "sleeps" not in done.out


def test_wake_does_not_wait(lair: Run, api: Api) -> None:
    api.answer("POST", f"{ONE}wake", a_server(state="starting", desired="awake"), 202)
    done = lair("wake", "demo/blog")
    assert (done.code, done.out) == (0, "demo/blog is on its way (starting).\n")
    assert json.loads(lair("wake", "demo/blog", "--json").out)["state"] == "starting"
    api.answer("POST", f"{ONE}wake", {"detail": "It did not start.", "state": "failed", "retry_at": 5.0}, 503)
    assert lair("wake", "demo/blog").code == 6
    api.answer("POST", f"{ONE}wake", {"detail": "It is disabled.", "state": "disabled"}, 409)
    done = lair("wake", "demo/blog")
    assert done.code == 4 and "lair enable demo/blog" in done.error


def test_extend_says_until_when(lair: Run, api: Api) -> None:
    until = time.time() + 7300
    api.answer("POST", f"{ONE}extend", a_server(state="awake", instance={"id": "i1", "extended_until": until}))
    done = lair("extend", "demo/blog", "2h")
    assert done.code == 0 and done.out.startswith("demo/blog stays awake until ") and "(in 2 h)" in done.out
    assert api.seen[-1][2] == {"seconds": 7200}
    api.answer("POST", f"{ONE}extend", a_server(state="awake", instance={"id": "i1"}))
    assert "as usual" in lair("extend", "demo/blog", "0").out
    api.answer("POST", f"{ONE}extend", {"detail": "demo/blog is asleep."}, 409)
    assert lair("extend", "demo/blog", "2h").code == 4
    assert lair("extend", "demo/blog", "long").code == 2
