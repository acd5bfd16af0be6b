"""The benchmark's cluster: a real one, that keeps on disk what it has acknowledged, and is gone with its stage."""

from __future__ import annotations

import base64
import http.client
import json

import psutil
from bench.etcd import MEMBERS, MOST_OPERATIONS, Etcd
from bench.stage import stage


def test_a_cluster_keeps_what_it_has_over_a_kill_of_all_members() -> None:
    number = MOST_OPERATIONS + 10  # more than one transaction takes
    with stage() as place:
        etcd = Etcd(place)
        etcd.write((f"bench/{at:05d}", f"value {at}") for at in range(number))
        first = etcd.pids()
        etcd.kill()
        etcd.start()
        assert [_count(port) for port in etcd.ports] == [number] * MEMBERS
        assert not set(first) & set(etcd.pids())
        assert etcd.memory() > 0
        assert etcd.disk() > 0
        last = etcd.pids()
    assert not any(psutil.pid_exists(pid) for pid in (*first, *last))


def _count(port: int) -> int:
    """Return how many keys a member has below `bench/`."""
    ends = {"key": "bench/", "range_end": "bench0"}
    body = {name: base64.b64encode(end.encode()).decode() for name, end in ends.items()}
    member = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    member.request("POST", "/v3/kv/range", json.dumps({**body, "count_only": True}))
    answer = json.loads(member.getresponse().read())
    member.close()
    return int(answer["count"])
