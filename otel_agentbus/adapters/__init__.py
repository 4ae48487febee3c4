"""What observes the agent frameworks, and what carries runs through job queues: which there are, on and off."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Self

from ..errors import UnsupportedFramework
from .registry import ADAPTERS, Adapter, Switch

_log = logging.getLogger("otel_agentbus.adapters")


@dataclass(slots=True)
class _On:
    """One framework that is observed; the switch is there as soon as that has begun."""

    users: int = 1
    switch: Switch | None = None


_on: dict[str, _On] = {}
#: Who waits for a framework to be imported, by its adapter's name.
_waiting: dict[str, list[Instrumented]] = {}
#: What is told of imports already; nobody can be taken off that list again.
_watched: set[str] = set()
#: Held for a few look-ups at most, never while anything is imported: imports have locks of their own.
_lock = threading.RLock()


class Instrumented:
    """The frameworks that one call of `instrument` observes, until `off()` or the end of the `with`."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._on = True

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are observed by now; with `auto`, others follow as the program imports them."""
        return tuple(self._names)

    def off(self) -> None:
        """Stop observing; a framework that others still observe goes on. A second call has no effect."""
        with _lock:
            if not self._on:
                return
            self._on = False
            for waiting in _waiting.values():
                if self in waiting:
                    waiting.remove(self)
            switches = [switch for name in self._names if (switch := _left(name)) is not None]
        for switch in switches:
            switch.off()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.off()

    def _switch_on(self, name: str) -> None:
        """Have this framework observed, by an observer that is there already or by a new one."""
        observe: Callable[[], Switch] = importlib.import_module(ADAPTERS[name].module).instrument
        with _lock:
            if not self._on or name in self._names:
                return
            self._names.append(name)
            entry = _on.get(name)
            if entry is not None:
                entry.users += 1
                return
            entry = _on[name] = _On()
        try:
            switch = observe()
        except BaseException:
            with _lock:
                self._names.remove(name)
                _on.pop(name, None)
            raise
        with _lock:
            if _on.get(name) is entry:
                entry.switch = switch
                return
        switch.off()  # nobody wants it any more

    def _switch_on_if_whole(self, name: str) -> None:
        try:
            self._switch_on(name)
        except Exception:  # noqa: BLE001 - nobody asked for it: a library that is broken here is perhaps not even used
            _log.warning("%s is installed, but cannot be observed", name, exc_info=True)

    def _switch_on_when_used(self, name: str) -> None:
        """Have this framework observed now if the program has imported it, else as soon as it does."""
        watch = ADAPTERS[name].watch
        if _is_imported(watch):
            if _is_it(name, sys.modules[watch]):
                self._switch_on_if_whole(name)
            return
        with _lock:
            _waiting.setdefault(name, []).append(self)
            if name in _watched:
                return
            _watched.add(name)
        from wrapt import register_post_import_hook

        register_post_import_hook(lambda module: _imported(name, module), watch)


def _left(name: str) -> Switch | None:
    """One user less; the switch, if that was the last."""
    entry = _on[name]
    entry.users -= 1
    return None if entry.users else _on.pop(name).switch


def _is_imported(module: str) -> bool:
    found = sys.modules.get(module)
    return found is not None and not getattr(getattr(found, "__spec__", None), "_initializing", False)


def _is_it(name: str, module: ModuleType) -> bool:
    try:
        return ADAPTERS[name].is_it(module)
    except Exception:  # noqa: BLE001 - this is the program's own import, and its packages may be changing under it
        _log.warning("%s cannot be observed: what is installed of it cannot be read", name, exc_info=True)
        return False


def _imported(name: str, module: ModuleType) -> None:
    """The program has just imported this framework, or something of its own that has the same name."""
    if not _is_it(name, module):
        return
    with _lock:
        waiting = _waiting.pop(name, [])
    for instrumented in waiting:
        instrumented._switch_on_if_whole(name)


def available() -> dict[str, str | None]:
    """Every framework that there is an adapter for, with the version that is installed, or None."""
    return {name: adapter.installed() for name, adapter in ADAPTERS.items()}


def auto() -> tuple[str, ...]:
    """The frameworks that are installed here in a version that is supported."""
    versions = available()
    return tuple(
        name for name, adapter in ADAPTERS.items() if (version := versions[name]) and adapter.supports(version)
    )


def active() -> dict[str, Switch]:
    """The frameworks that are being observed now, with what observes them."""
    return {name: entry.switch for name, entry in _on.items() if entry.switch is not None}


def instrument(*names: str) -> Instrumented:
    """Observe these frameworks through their own official hooks, for every agent in this process.

    The name `auto` stands for all that are installed in a supported version, each from the moment on when the program
    imports it; one of them that cannot be observed is left out, with a warning.

    Raises `UnsupportedFramework` for a name that has no adapter, and for a framework that is not installed or whose
    version is outside the supported ones; then nothing is switched on. Calling twice counts: the last `off()` is off.
    """
    wanted = dict.fromkeys(name.strip().lower().replace("_", "-") for name in names)
    found = auto() if wanted.pop("auto", "") is None else ()
    check(*wanted)
    begun = Instrumented()
    try:
        for name in wanted:
            begun._switch_on(name)
    except BaseException:
        begun.off()
        raise
    for name in found:
        if name not in wanted:
            begun._switch_on_when_used(name)
    return begun


def named(given: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...] | None:
    """The names in an argument that may be one text, with commas; None where none is given."""
    if given is None:
        return None
    return tuple(given.split(",")) if isinstance(given, str) else tuple(given)


def check(*names: str) -> None:
    """Raise `UnsupportedFramework` for the first of these that cannot be observed here; `auto` always can."""
    for name in names:
        if name != "auto":
            _check(name)


def _check(name: str) -> None:
    adapter = ADAPTERS.get(name)
    if adapter is None:
        raise UnsupportedFramework(f"There is no adapter named {name!r}; there are: {', '.join(sorted(ADAPTERS))}.")
    version = adapter.installed()
    wanted = f"'{adapter.distribution}{adapter.range}'"
    if version is None:
        raise UnsupportedFramework(f"{name} cannot be instrumented: it is not installed; install {wanted}.")
    if not adapter.supports(version):
        raise UnsupportedFramework(
            f"{name} {version} cannot be instrumented: the adapter supports {adapter.range}; install {wanted}."
        )


__all__ = [
    "ADAPTERS",
    "Adapter",
    "Instrumented",
    "Switch",
    "active",
    "auto",
    "available",
    "check",
    "instrument",
    "named",
]
