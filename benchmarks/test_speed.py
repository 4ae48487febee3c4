"""The main cases under pytest-benchmark, for a look at their spread: `python -m pytest benchmarks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest

from otel_agentbus.events import Event, HeartbeatTick

from . import background, block, router


class Benchmark(Protocol):
    """The `benchmark` fixture."""

    def __call__(self, function: Callable[..., object], *arguments: object) -> object:
        """Time it."""

    def pedantic(self, target: Callable[[], object], *, setup: Callable[[], object], rounds: int) -> object:
        """Time it once a round, with something done before that is not timed."""


@pytest.mark.parametrize("size", router.TARGETS)
@pytest.mark.parametrize("way", [router.emit_to, router.bare_loop])
def test_emit(benchmark: Benchmark, way: Callable[[list[router.Emit]], router.Emit], size: int) -> None:
    event: Event = HeartbeatTick()
    benchmark(way(router.handlers(size)), event)


@pytest.mark.parametrize("case", ["block", "sdk", "empty"])
def test_a_model_call(benchmark: Benchmark, case: str) -> None:
    """A hundred calls a round."""
    with block.cases() as cases:
        timed = cases[case]
        assert callable(timed.what)
        call = timed.what

        def hundred() -> None:
            for _ in range(100):
                call()

        benchmark.pedantic(hundred, setup=timed.prepare, rounds=50)


@pytest.mark.parametrize("case", ["our spans", "plain spans", "our bytes", "plain bytes"])
def test_the_background(benchmark: Benchmark, case: str) -> None:
    """All spans of a recorded program a round."""
    timed = background.cases(background.RUNS)[case]
    assert callable(timed.what)
    benchmark.pedantic(timed.what, setup=timed.prepare, rounds=20)
