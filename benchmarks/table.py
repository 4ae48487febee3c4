"""Ratios measured within one run, their targets, and the table that says which hold."""

from __future__ import annotations

import random
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

#: How often a case that is over its target is measured before it counts: other programs share the machine.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: the rounds in which the cases take turns, and the share of the calls in each."""

    rounds: int = 40
    share: float = 1.0

    def of(self, count: int) -> int:
        """So many calls, spans or ticks; less of them where less is measured."""
        return max(1, round(count * self.share))


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Timed:
    """Something that is timed: a statement with its names, or a callable."""

    what: str | Callable[[], object]
    #: How many calls one sample has.
    number: int = 200
    names: Mapping[str, object] | None = None
    #: Called before each sample, outside of its time.
    prepare: Callable[[], object] = _nothing
    #: How many things one call does.
    per: int = 1


def sample(cases: Mapping[str, Timed], effort: Effort) -> dict[str, float]:
    """The median nanoseconds of each case; they take turns in shuffled order, so that noise hits all alike."""
    clock = time.thread_time  # of this thread alone: what else runs on the machine is not ours
    timers = {
        name: timeit.Timer(case.what, timer=clock, globals=dict(case.names) if case.names else None)
        for name, case in cases.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for lap in range(effort.rounds + 1):
        random.shuffle(order)
        for name in order:
            case = cases[name]
            number = effort.of(case.number)
            case.prepare()
            seconds = timers[name].timeit(number)  # the garbage collector is off meanwhile
            if lap:  # the first lap warms up
                taken[name].append(seconds / number / case.per * 1e9)
    return {name: median(samples) for name, samples in taken.items()}


Verdict = Literal["OK", "slack", "over", ""]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison, and how many times the baseline it may be."""

    case: str
    measured: float
    against: str
    baseline: float
    target: float | None = None
    unit: str = "ns"
    #: Whether a ratio over its target fails the run; else it is only shown.
    binding: bool = True

    @property
    def ratio(self) -> float:
        """How many times the baseline was measured."""
        return self.measured / self.baseline

    def verdict(self, slack: float) -> Verdict:
        """`OK` within the target, `slack` within the target and the slack that noise is given, else `over`."""
        if self.target is None:
            return ""
        if self.ratio <= self.target:
            return "OK"
        return "slack" if self.ratio <= self.target * slack else "over"

    def fails(self, slack: float) -> bool:
        """Whether the run has failed with it."""
        return self.binding and self.verdict(slack) == "over"


#: Measures a group of cases that share a baseline.
Bench = Callable[[Effort], list[Row]]


def measured(bench: Bench, effort: Effort, slack: float) -> list[Row]:
    """The rows of a bench, the best of up to three runs where one is over its target."""
    rows = bench(effort)
    for _ in range(TRIES - 1):
        if not any(row.fails(slack) for row in rows):
            break
        rows = [min(pair, key=lambda row: row.ratio) for pair in zip(rows, bench(effort), strict=True)]
    return rows


HEAD = ("case", "measured", "against", "baseline", "ratio", "target", "")
#: The columns that are no numbers.
WORDS = (0, 2, 6)


def lines(rows: Sequence[Row], slack: float) -> Iterator[str]:
    """The table."""
    cells = [HEAD, *(_cells(row, slack) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    for position, row in enumerate(cells):
        sized = enumerate(zip(row, widths, strict=True))
        texts = (text.ljust(width) if column in WORDS else text.rjust(width) for column, (text, width) in sized)
        yield "  ".join(texts).rstrip()
        if position == 0:
            yield "  ".join("-" * width for width in widths).rstrip()


def _cells(row: Row, slack: float) -> tuple[str, ...]:
    verdict = row.verdict(slack)
    return (
        row.case,
        f"{row.measured:,.0f} {row.unit}",
        row.against,
        f"{row.baseline:,.0f} {row.unit}",
        f"{row.ratio:.3f}" if row.ratio < 10 else f"{row.ratio:.1f}",
        "" if row.target is None else f"{row.target:.3g}",
        verdict if row.binding or not verdict else f"({verdict})",
    )
