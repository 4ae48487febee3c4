"""What observes the agent frameworks, and what carries runs through job queues: which there are, on and off."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from ..errors import UnsupportedFramework

_log = logging.getLogger("otel_agentbus.adapters")


class Switch(Protocol):
    """What an adapter gives back once it observes its framework."""

    @property
    def chained(self) -> bool:
        """Whether the application had instrumented the framework before: its own spans then go on as well."""

    def off(self) -> None:
        """Leave the framework as it was found; runs that have begun are observed to their end."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One framework: the distribution that carries it, the versions supported, and the module that observes it."""

    name: str
    distribution: str
    lowest: tuple[int, int]
    below: tuple[int, int]
    module: str

    def installed(self) -> str | None:
        """The version that is installed, or None."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def supports(self, version: str) -> bool:
        """Whether that version is one this adapter is made for."""
        return self.lowest <= _release(version) < self.below

    @property
    def range(self) -> str:
        """The supported versions, as a requirement says them."""
        return ">={}.{},<{}.{}".format(*self.lowest, *self.below)


ADAPTERS: Mapping[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("pydantic-ai", "pydantic-ai-slim", (2, 60), (3, 0), "otel_agentbus.adapters.pydantic_ai"),
        Adapter("celery", "celery", (5, 5), (6, 0), "otel_agentbus.adapters.celery"),
        Adapter("dramatiq", "dramatiq", (2, 0), (3, 0), "otel_agentbus.adapters.dramatiq"),
        Adapter("rq", "rq", (2, 6), (4, 0), "otel_agentbus.adapters.rq"),
        Adapter("arq", "arq", (0, 26), (1, 0), "otel_agentbus.adapters.arq"),
    )
}


@dataclass(slots=True)
class _On:
    switch: Switch
    users: int = 1


_on: dict[str, _On] = {}
_lock = threading.Lock()


class Instrumented:
    """The frameworks that one call of `instrument` observes, until `off()` or the end of the `with`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._on = True

    def off(self) -> None:
        """Stop observing; a framework that others still observe goes on. A second call has no effect."""
        with _lock:
            if not self._on:
                return
            self._on = False
            for name in self.names:
                entry = _on[name]
                entry.users -= 1
                if not entry.users:
                    del _on[name]
                    entry.switch.off()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.off()


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
    return {name: entry.switch for name, entry in _on.items()}


def instrument(*names: str) -> Instrumented:
    """Observe these frameworks through their own official hooks, for every agent in this process.

    The name `auto` stands for all that are installed in a supported version; one of them that cannot be imported is
    left out, with a warning.

    Raises `UnsupportedFramework` for a name that has no adapter, and for a framework that is not installed or whose
    version is outside the supported ones; then nothing is switched on. Calling twice counts: the last `off()` is off.
    """
    found = "auto" in names
    if found:
        names = auto()
    wanted = tuple(dict.fromkeys(name.strip().lower().replace("_", "-") for name in names))
    for name in wanted:
        _check(name)
    begun: list[str] = []
    try:
        with _lock:
            for name in wanted:
                if found:
                    _switch_on_if_whole(name, begun)
                else:
                    _switch_on(name)
                    begun.append(name)
    except BaseException:
        Instrumented(tuple(begun)).off()
        raise
    return Instrumented(tuple(begun))


def _switch_on_if_whole(name: str, begun: list[str]) -> None:
    try:
        _switch_on(name)
    except Exception:  # noqa: BLE001 - nobody asked for it: a library that is broken here is perhaps not even used
        _log.warning("%s is installed, but cannot be observed", name, exc_info=True)
    else:
        begun.append(name)


def _switch_on(name: str) -> None:
    entry = _on.get(name)
    if entry is not None:
        entry.users += 1
        return
    observe: Callable[[], Switch] = importlib.import_module(ADAPTERS[name].module).instrument
    _on[name] = _On(observe())


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


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"(?:\d+!)?(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


__all__ = ["ADAPTERS", "Adapter", "Instrumented", "Switch", "active", "auto", "available", "instrument"]
