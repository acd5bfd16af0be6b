"""`bin/chaos`: run the cycles as often as one likes, and print the figures."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from tests.chaos import nodes
from tests.chaos.conftest import stalling_lair
from tests.chaos.cycles import Kind, Outcome, run
from tests.system.site import site_of

SHOWN = 10
"""Problems that are printed of each kind."""


async def experiment(directory: Path, kind: Kind, cycles: int, workers: int) -> Outcome:
    """Run one kind on an installation of its own."""
    with stalling_lair(directory / "lair", workers=workers) as lair:
        async with site_of(lair) as site:
            return await run(site, directory, kind, cycles)


def trouble_nodes(seconds: float, seed: int) -> int:
    """Kill, pause and cut off what proxy nodes need; return 0 where all of them hold what etcd holds in the end."""
    with tempfile.TemporaryDirectory(prefix="lair-chaos-") as directory:
        seen = asyncio.run(nodes.run(Path(directory) / "nodes", seconds, seed))
    print(f"nodes, seed {seed}: {seen.line()}")
    for problem in seen.problems[:SHOWN]:
        print(f"  {problem}")
    return int(bool(seen.problems))


def main() -> int:
    """Return 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="bin/chaos", description=__doc__)
    parser.add_argument("--cycles", type=int, default=100, help="of each kind (100)")
    parser.add_argument(
        "--kind", choices=[*get_args(Kind), "all", "nodes"], default="all", help="kind of stop (all), or proxy nodes"
    )
    parser.add_argument("--seconds", type=float, default=600, help="of kind nodes (600)")
    parser.add_argument("--seed", type=int, default=1, help="of kind nodes (1)")
    parser.add_argument("--workers", type=int, default=2, help="NGINX worker processes (2)")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if given.kind == "nodes":
        return trouble_nodes(given.seconds, given.seed)
    bad = False
    for kind in get_args(Kind) if given.kind == "all" else [given.kind]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="lair-chaos-") as directory:
            outcome = asyncio.run(experiment(Path(directory), kind, given.cycles, given.workers))
        print(f"{kind}, {given.workers} workers, {time.monotonic() - began:.0f} s: {outcome.line()}", flush=True)
        for problem in outcome.problems[:SHOWN]:
            print(f"  {problem}", flush=True)
        bad = bad or bool(outcome.problems) or outcome.cycles < given.cycles
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
