"""The ids of the tool calls of one run: models give the same one again, and calls are tried again under theirs."""

from __future__ import annotations

from collections import Counter
from typing import Any


class ToolCallIds:
    """Called with the model's id of a tool call, gives that, numbered from its second use on; None where it is none."""

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def __call__(self, given: Any) -> str | None:
        if not isinstance(given, str) or not given:
            return None
        self._used[given] += 1
        used = self._used[given]
        return given if used == 1 else f"{given}#{used}"


__all__ = ["ToolCallIds"]
