"""Generators that do their work only when somebody reads them, wherever that is: whose step runs here, and who forgot.

Nothing of ours is current in a consumer of a stream. What LlamaIndex begins inside of a generator's step is known by
the generator's frame, which is then among those that run here.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from ..losses import Shielded

_UNSEEN = Shielded("the end of a stream in LlamaIndex could not be observed")
#: How many frames of Python are looked at.
_FRAMES: Final = 60


class Streams:
    """The generators that may still be read, each with whose it is."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[weakref.ref[Any], Any]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, id: str, generator: Any, owner: Any, forgotten: Callable[[], None]) -> None:
        """Remember a generator until `remove`; `forgotten` is called where it goes before that."""
        self._open[id] = weakref.ref(generator), owner
        weakref.finalize(generator, self._forgotten, id, forgotten).atexit = False

    def remove(self, id: str) -> None:
        """Nothing that matters happens in it any more."""
        self._open.pop(id, None)

    def running(self) -> tuple[str, Any] | None:
        """The id and the owner of the innermost generator one of whose steps is running here."""
        if not self._open:
            return None
        frames: dict[FrameType, tuple[str, Any]] = {}
        for id, (stream, owner) in tuple(self._open.items()):
            generator = stream()
            frame = getattr(generator, "gi_frame", None) or getattr(generator, "ag_frame", None)
            if frame is not None:
                frames[frame] = id, owner
        here: FrameType | None = sys._getframe(1)
        for _ in range(_FRAMES):
            if here is None or here in frames:
                break
            here = here.f_back
        return None if here is None else frames.get(here)

    def _forgotten(self, id: str, forgotten: Callable[[], None]) -> None:
        if self._open.pop(id, None) is not None:
            with _UNSEEN:
                forgotten()


__all__ = ["Streams"]
