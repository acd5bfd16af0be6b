"""`bin/bench`: measures us and our peers side by side, and writes `bench/results/`."""

from __future__ import annotations

import argparse
import sys

from bench.install import install
from bench.scenarios import SCENARIOS


def main() -> int:
    """Run what was asked for; with --check, fail where a promise does not hold within generous bounds."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"scenarios: {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--short", action="store_true", help="a tenth of the work: to see that it runs")
    parser.add_argument("--check", action="store_true", help="the regression check before a release: ratios only")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SCENARIOS]:
        parser.error(f"no scenario is called {unknown[0]}: there are {', '.join(SCENARIOS)}")
    broken = 0
    for name in given.names or SCENARIOS:
        scenario = SCENARIOS[name]
        sys.stderr.write(f"bench: {name}\n")
        install(scenario.programs)
        report = scenario.measure(short=given.short, check=given.check)
        sys.stdout.write(report.text() + "\n")
        if not given.short and not given.check:
            report.write()
        broken += sum(not holds for *_, holds in report.promises)
    return 1 if given.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
