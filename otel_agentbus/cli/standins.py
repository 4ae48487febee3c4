"""Stand-ins for the world of the demo: models that answer from a script, a search, pages, a cache of answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class RateLimited(Exception):
    """The provider wants us to try again later."""


class Unreachable(Exception):
    """A page does not answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a provider's client gives back: the text, and what it took."""

    text: str
    model: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    finish_reason: str = "stop"

    def usage(self) -> dict[str, Any]:
        """The reply's numbers under the names that `record()` takes."""
        return {
            "response_model": self.model,
            "input_tokens": self.tokens_in,
            "cache_read_input_tokens": self.tokens_cached,
            "output_tokens": self.tokens_out,
            "finish_reasons": [self.finish_reason],
        }


PLAN = Reply("Research, write, check.", "gpt-5-mini", 846, 512, 152, "tool_calls")
QUERIES = Reply("sodium-ion grid storage: cost, cold, field trials", "claude-haiku-4-5", 1_930, 1_408, 118)
DIGEST = Reply("Cheaper, heavier, indifferent to cold.", "claude-haiku-4-5", 9_412, 1_408, 486)
REPORT = Reply(
    "Sodium-ion batteries are ready for the grid where land is cheap. They cost less than lithium ones, last about as "
    "long and do not mind the cold. They store less in the same space, which matters in a car and hardly in a field. "
    "Two of three sources agree; the third could not be read.",
    "claude-sonnet-4-5",
    1_268,
    0,
    86,
)
VERDICT = Reply("The report answers the question.", "gpt-5-mini", 2_310, 1_792, 64)


#: What was deployed last.
COMMIT = "9f1c2ab4d07e"


def committed(commit_sha: str) -> float | None:
    """When a commit was made, as the repository knows: this one three hours ago."""
    return time.time() - 3 * 3600 if commit_sha == COMMIT else None


class Models:
    """A client for models. It refuses the first request for queries, as providers do at times."""

    def __init__(self) -> None:
        self._refuses = True

    async def plan(self) -> Reply:
        """The planner's first answer."""
        return await _after(0.28, PLAN)

    async def queries(self) -> Reply:
        """What to search for."""
        if self._refuses:
            self._refuses = False
            await asyncio.sleep(0.09)
            raise RateLimited("429, try again")
        return await _after(0.24, QUERIES)

    async def digest(self) -> Reply:
        """What the pages say."""
        return await _after(0.37, DIGEST)

    async def report(self) -> AsyncIterator[str]:
        """The report, a few words at a time."""
        words = REPORT.text.split()
        await asyncio.sleep(0.14)
        for start in range(0, len(words), 6):
            yield " ".join(words[start : start + 6]) + " "
            await asyncio.sleep(0.05)

    async def verdict(self) -> Reply:
        """The planner's last answer."""
        return await _after(0.21, VERDICT)


async def search(mirror: str) -> list[str]:
    """Pages about the question; one mirror is quicker than the other."""
    return await _after({"eu": 0.16, "us": 0.40}[mirror], ["costs", "cold", "trials"])


async def read(page: str) -> str:
    """What a page says, if it answers."""
    seconds = {"costs": 0.21, "cold": 0.32, "trials": 0.26}[page]
    await asyncio.sleep(seconds)
    if page == "trials":
        raise Unreachable("no answer")
    return f"what is known of {page}"


def remembered(question: str) -> str | None:
    """What the application's own cache has about a part of the question."""
    return "lithium needs nickel and a mild climate" if "lithium" in question else None


async def _after(seconds: float, answer: T) -> T:
    await asyncio.sleep(seconds)
    return answer
