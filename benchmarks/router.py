"""What an emit costs: to 0, 1, 5 and 20 handlers, against a bare loop over the same handlers."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

from otel_agentbus.events import Event, HeartbeatTick
from otel_agentbus.router import Router

from .table import Effort, Row, Timed, sample

#: How many times a bare loop an emit may take, by the number of handlers.
TARGETS = {0: 60 / 43, 1: 75 / 57, 5: 1.15, 20: 540 / 496}
NUMBER = 10_000

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


def cases() -> dict[str, Timed]:
    """What is compared: "emit" and "bare" for each number of handlers, and single handlers with options."""
    emits: dict[str, Emit] = {}
    for size in TARGETS:
        calls = handlers(size)
        emits[f"bare {size}"] = bare_loop(calls)
        emits[f"emit {size}"] = emit_to(calls)
    emits["where"] = emit_to(handlers(1), where=lambda _: True)
    emits["thread"] = emit_to(handlers(1), deliver="thread", queue_size=10)
    event = HeartbeatTick()
    return {name: Timed("emit(event)", NUMBER, {"emit": emit, "event": event}) for name, emit in emits.items()}


def rows(effort: Effort) -> list[Row]:
    """An emit by the number of handlers, and with options."""
    taken = sample(cases(), effort)
    found = [
        Row(f"emit to {size} inline handlers", taken[f"emit {size}"], "a bare loop", taken[f"bare {size}"], target)
        for size, target in TARGETS.items()
    ]
    for option, case in (("where", "emit to a handler with where"), ("thread", "emit to a handler in a thread")):
        found.append(Row(case, taken[option], "a bare loop over one", taken["bare 1"]))
    return found
