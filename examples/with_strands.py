"""Strands Agents: a planner with two parallel researchers, a tool that fails, and a streamed answer left early.

Knows nothing of otel_agentbus, and needs no network: the models are scripted. `otel-agentbus run` shows what it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from strands import Agent, tool
from strands.models import Model

Turn = dict[str, Any]


class FakeModel(Model):
    """A model that plays back its turns, one for each call."""

    def __init__(self, model_id: str, usage: tuple[int, int], *turns: Turn, cached: int = 0) -> None:
        self.config = {"model_id": model_id}
        self.usage = {"inputTokens": usage[0], "outputTokens": usage[1], "totalTokens": sum(usage)}
        if cached:
            self.usage["cacheReadInputTokens"] = cached
        self.turns = list(turns)

    def update_config(self, **config: Any) -> None:
        self.config.update(config)

    def get_config(self) -> dict[str, Any]:
        return self.config

    async def structured_output(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        raise NotImplementedError
        yield

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        turn = self.turns.pop(0)
        yield {"messageStart": {"role": "assistant"}}
        for text in turn.get("text", []):
            yield {"contentBlockDelta": {"delta": {"text": text}}}
        yield {"contentBlockStop": {}}
        for number, (name, arguments) in enumerate(turn.get("calls", [])):
            use = {"toolUseId": f"{name}-{number}", "name": name}
            yield {"contentBlockStart": {"start": {"toolUse": use}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": arguments}}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if "calls" in turn else "end_turn"}}
        yield {"metadata": {"usage": self.usage, "metrics": {"latencyMs": 1}}}


@tool
async def research(topic: str) -> str:
    """Look a topic up."""
    model = FakeModel("fake-researcher", (20, 5), {"text": [f"All about {topic}."]})
    researcher = Agent(name="researcher", model=model, callback_handler=None)
    return str(await researcher.invoke_async(f"What is there to know about {topic}?"))


@tool
def publish(text: str) -> str:
    """Publish a text."""
    raise ConnectionError("no such channel")


def planner() -> Agent:
    """The agent that asks the others; Strands hands a tool's error to the model."""
    turns = (
        {"calls": [("research", '{"topic": "tea"}'), ("research", '{"topic": "rain"}')]},
        {"calls": [("publish", '{"text": "Tea goes with rain."}')]},
        {"text": ["Tea goes ", "with rain."]},
    )
    return Agent(
        name="planner",
        model=FakeModel("fake-planner", (100, 10), *turns, cached=40),
        system_prompt="Plan, then publish.",
        tools=[research, publish],
        callback_handler=None,
    )


def run() -> str:
    """Ask the planner."""
    return str(planner()("What goes with rain?")).strip()


async def tell() -> str:
    """Read the teller's answer until its first chunk is there, and leave."""
    model = FakeModel("fake-teller", (30, 3), {"text": ["Once ", "upon ", "a time."]})
    teller = Agent(name="teller", model=model, callback_handler=None)
    first = ""
    async for event in teller.stream_async("Tell me a story."):
        if "data" in event:
            first = event["data"]
            break
    return first


def main() -> None:
    """Run both, and print what they say."""
    print(run())
    print(asyncio.run(tell()))


if __name__ == "__main__":
    main()
