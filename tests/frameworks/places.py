"""Which framework is installed where: those that get along together, and those that do not."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..environments import ROOT, Environment

LOCKS = ROOT / "requirements" / "frameworks"


@dataclass(frozen=True)
class Place:
    """One environment, and the frameworks whose tests run in it."""

    name: str
    frameworks: tuple[str, ...]
    #: Other files of tests that run there.
    further: tuple[str, ...] = ()

    @property
    def environment(self) -> Environment:
        """Its virtual environment."""
        return Environment(f"frameworks-{self.name}", sys.executable, (LOCKS / f"{self.name}.txt",))


PLACES = (
    Place(
        "together",
        (
            "pydantic-ai",
            "langchain",
            "openai-agents",
            "llama-index",
            "strands",
            "agent-framework",
            "claude-agent-sdk",
            "mcp",
        ),
        ("test_counted_once.py", "test_all_at_once.py"),
    ),
    Place("crewai", ("crewai",)),  # needs an older pydantic and openai
    Place("google-adk", ("google-adk",), ("test_counted_once.py",)),  # needs OpenTelemetry below 1.45
)

#: Each framework's oldest version that its adapter supports, or the oldest that can be installed today beside ours.
OLDEST = tuple(Place(f"oldest-{framework}", (framework,)) for place in PLACES for framework in place.frameworks)


def place_of(framework: str) -> Place:
    """Where this framework's newest version is."""
    return next(place for place in PLACES if framework in place.frameworks)
