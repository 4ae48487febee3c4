"""`python -m benchmarks`: the table; its exit code says whether every binding target holds, with slack for noise."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

from . import background, block, journal, lateness, memory, money, router
from .table import Bench, Effort, lines, measured

BENCHES: dict[str, Bench] = {
    "router": router.rows,
    "block": block.rows,
    "background": background.rows,
    "money": money.rows,
    "journal": journal.rows,
    "memory": memory.rows,
    "lateness": lateness.rows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and say whether all is well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", help=f"what to measure: {', '.join(BENCHES)} (all)")
    full = Effort()
    for option, default, text in (
        ("--slack", 1.5, "how many times its target a ratio may be"),
        ("--rounds", full.rounds, "how often the cases take turns"),
        ("--share", full.share, "the share of the calls in each round"),
    ):
        parser.add_argument(option, type=type(default), default=default, help=f"{text} (%(default)s)")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.only if name not in BENCHES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; take some of {', '.join(BENCHES)}")
    effort = Effort(given.rounds, given.share)
    rows = [row for name in given.only or BENCHES for row in measured(BENCHES[name], effort, given.slack)]
    print(f"Python {platform.python_version()}, OpenTelemetry {version('opentelemetry-sdk')}")
    print(*lines(rows, given.slack), sep="\n")
    failed = [row.case for row in rows if row.fails(given.slack)]
    if failed:
        print(f"Over target x {given.slack:g}: {'; '.join(dict.fromkeys(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
