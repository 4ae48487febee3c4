"""The frameworks and job queues that there are adapters for, with the versions that these are tested with."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol


class Switch(Protocol):
    """What an adapter gives back once it observes its framework."""

    @property
    def chained(self) -> bool:
        """Whether the application had instrumented the framework before: its own spans then go on as well."""

    def off(self) -> None:
        """Leave the framework as it was found; runs that have begun are observed to their end."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One framework: the distribution that carries it, the versions supported, and the module that observes it.

    `watch` is the framework's own module whose import shows that a program uses it.
    """

    name: str
    distribution: str
    lowest: tuple[int, int]
    below: tuple[int, int]
    watch: str

    @property
    def module(self) -> str:
        """Our module that observes it."""
        return f"{__package__}.{self.name.replace('-', '_')}"

    def installed(self) -> str | None:
        """The version that is installed, or None."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def is_it(self, module: ModuleType) -> bool:
        """Whether this is the framework's own module, and not one of the program's that happens to have its name."""
        path = self.watch.replace(".", "/")
        theirs = importlib.metadata.distribution(self.distribution)
        files = [Path(str(theirs.locate_file(path + end))) for end in (".py", "/__init__.py")]
        installed = [file.resolve() for file in files if file.exists()]  # none, where it is installed in some other way
        return not installed or Path(getattr(module, "__file__", None) or "").resolve() in installed

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
        Adapter("pydantic-ai", "pydantic-ai-slim", (2, 60), (3, 0), "pydantic_ai"),
        Adapter("langchain", "langchain-core", (1, 0), (2, 0), "langchain_core.runnables.base"),
        Adapter("openai-agents", "openai-agents", (0, 17), (1, 0), "agents"),
        Adapter("crewai", "crewai", (1, 15), (2, 0), "crewai"),
        Adapter("google-adk", "google-adk", (2, 3), (3, 0), "google.adk.runners"),
        Adapter("llama-index", "llama-index-core", (0, 14), (0, 15), "llama_index_instrumentation"),
        Adapter("strands", "strands-agents", (1, 34), (2, 0), "strands"),
        Adapter("agent-framework", "agent-framework-core", (1, 3), (2, 0), "agent_framework"),
        Adapter("claude-agent-sdk", "claude-agent-sdk", (0, 2), (0, 3), "claude_agent_sdk"),
        Adapter("mcp", "mcp", (1, 22), (3, 0), "mcp"),
        Adapter("otel", "opentelemetry-sdk", (1, 42), (2, 0), "opentelemetry.sdk.trace"),
        Adapter("celery", "celery", (5, 5), (6, 0), "celery"),
        Adapter("dramatiq", "dramatiq", (2, 0), (3, 0), "dramatiq"),
        Adapter("rq", "rq", (2, 6), (4, 0), "rq"),
        Adapter("arq", "arq", (0, 26), (1, 0), "arq"),
    )
}


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"(?:\d+!)?(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


__all__ = ["ADAPTERS", "Adapter", "Switch"]
