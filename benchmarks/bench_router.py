"""What an emit costs: to 0, 1, 5 and 20 handlers, against a bare loop over the same handlers in the same run."""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable
from statistics import median
from types import FunctionType

from otel_agentbus.events import Event, HeartbeatTick
from otel_agentbus.router import Router

SIZES = (0, 1, 5, 20)
ROUNDS = 25
NUMBER = 20_000

Emit = Callable[[Event], None]


def handlers(count: int) -> list[Emit]:
    """Handlers that do nothing, each with a code object of its own, as in a program."""

    def nothing(_: Event) -> None:
        pass

    return [FunctionType(nothing.__code__.replace(), globals()) for _ in range(count)]


def bare_loop(calls: list[Emit]) -> Emit:
    """The least that isolated handlers can cost."""
    heard = tuple(calls)

    def loop(event: Event) -> None:
        for call in heard:
            try:
                call(event)
            except Exception:  # noqa: BLE001 - what is compared isolates, too
                pass

    return loop


def emit_to(calls: list[Emit], **options: object) -> Emit:
    """The emit of a router that these handlers hear."""
    router = Router()
    for call in calls:
        router.subscribe(call, HeartbeatTick, **options)  # type: ignore[arg-type]  # options of each case
    return router.emit


def cases() -> dict[str, Emit]:
    """What is compared; "emit" and "bare" for each number of handlers, and single handlers with options."""
    timed: dict[str, Emit] = {}
    for size in SIZES:
        calls = handlers(size)
        timed[f"bare {size}"] = bare_loop(calls)
        timed[f"emit {size}"] = emit_to(calls)
    timed["where"] = emit_to(handlers(1), where=lambda _: True)
    timed["thread"] = emit_to(handlers(1), deliver="thread", queue_size=10)
    return timed


def sample() -> dict[str, float]:
    """Median nanoseconds of each case; the cases take turns in shuffled order, so that noise hits all alike."""
    event = HeartbeatTick()
    timers = {
        name: timeit.Timer("emit(event)", globals={"emit": emit, "event": event}) for name, emit in cases().items()
    }
    rounds: dict[str, list[float]] = {name: [] for name in timers}
    names = list(timers)
    for _ in range(ROUNDS):
        random.shuffle(names)
        for name in names:
            rounds[name].append(timers[name].timeit(NUMBER) / NUMBER * 1e9)  # timeit switches gc off
    return {name: median(taken) for name, taken in rounds.items()}


def router_ratios(taken: dict[str, float] | None = None) -> dict[str, float]:
    """How many times a bare loop an emit takes, by the number of handlers."""
    taken = sample() if taken is None else taken
    return {str(size): taken[f"emit {size}"] / taken[f"bare {size}"] for size in SIZES}


def main() -> None:
    """Print the table."""
    taken = sample()
    print(f"{'handlers':>8} {'bare loop':>10} {'emit':>8} {'ratio':>6}")
    for size, ratio in router_ratios(taken).items():
        print(f"{size:>8} {taken[f'bare {size}']:>7.0f} ns {taken[f'emit {size}']:>5.0f} ns {ratio:>6.2f}")
    for name in ("where", "thread"):
        print(f"one handler with {name}: {taken[name]:.0f} ns")


if __name__ == "__main__":
    main()
