"""A function of a library that has no hook, wrapped and put back."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from otel_agentbus.adapters.wrapping import wrap


class Library:
    """Somebody else's."""

    def plain(self, number: int) -> int:
        """Doubles."""
        return 2 * number

    @classmethod
    def of_class(cls, number: int) -> tuple[type, int]:
        return cls, number

    async def awaited(self, number: int) -> int:
        await asyncio.sleep(0)
        return 3 * number


def heard(calls: list[Any]) -> Any:
    """Hears each call, and passes through."""

    def around(found: Any) -> Any:
        def outer(*args: Any, **named: Any) -> Any:
            calls.append(args[1:])
            return found(*args, **named)

        return outer

    return around


def test_every_call_passes_through_and_the_found_function_is_put_back() -> None:
    calls: list[Any] = []
    before = dict(vars(Library))
    undo = [wrap(Library, name, heard(calls)) for name in ("plain", "of_class", "awaited")]

    assert (Library().plain(2), Library.of_class(3), asyncio.run(Library().awaited(4))) == (4, (Library, 3), 12)
    assert calls == [(2,), (3,), (4,)]
    assert inspect.iscoroutinefunction(Library.awaited)
    assert not inspect.iscoroutinefunction(Library.plain)
    assert Library.plain.__doc__ == "Doubles."

    for back in undo:
        back()
    assert dict(vars(Library)) == before


def test_what_somebody_else_has_wrapped_since_stays_and_ours_only_passes_through() -> None:
    calls: list[Any] = []
    theirs: list[Any] = []
    found = vars(Library)["plain"]
    ours_off = wrap(Library, "plain", heard(calls))
    theirs_off = wrap(Library, "plain", heard(theirs))

    ours_off()
    assert Library().plain(5) == 10
    assert (calls, theirs) == ([], [(5,)])
    theirs_off()
    assert Library().plain(5) == 10
    Library.plain = found  # type: ignore[method-assign]
