"""A mark in the OpenTelemetry context: whatever was left open behind it is not current any more once it is left."""

from __future__ import annotations

from opentelemetry.context import Context, attach, create_key, get_current

_MARK = create_key("agentbus.boundary")


class ContextBoundary:
    """The context as it was at one moment, and the way back to it. Contexts made from the marked one have the mark."""

    __slots__ = ("_before", "_ended")

    def __init__(self) -> None:
        self._before = _outside(get_current())
        self._ended = False
        attach(Context({**self._before, _MARK: self}))

    def leave(self, *, here: bool) -> None:
        """Make current again what was; `here` says that this is the place where the mark was set.

        Where somebody has gone further back already (an instrumentation that ends its span first), that stays.
        """
        self._ended = True
        now = get_current()
        if now.get(_MARK) is self or (here and _MARK not in now and _is_empty(self._before)):
            attach(_outside(self._before))


def _outside(context: Context) -> Context:
    """What was before boundaries that have ended: somebody may have gone back to inside of one afterwards."""
    while isinstance(above := context.get(_MARK), ContextBoundary) and above._ended:
        context = above._before
    return context


def _is_empty(context: Context) -> bool:
    return not context.keys() - {_MARK}


__all__ = ["ContextBoundary"]
