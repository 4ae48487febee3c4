"""Microsoft agent-framework: a planner, two parallel researchers, a tool that fails, a streamed answer left early.

Knows nothing of otel_agentbus, and needs no network: the models are scripted. `otel-agentbus run` shows what it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
    UsageDetails,
)
from agent_framework.observability import ChatTelemetryLayer

Turn = list[Content]


class FakeClient(FunctionInvocationLayer, ChatMiddlewareLayer, ChatTelemetryLayer, BaseChatClient):
    """A chat client that plays back its turns, one for each request."""

    OTEL_PROVIDER_NAME = "fake"

    def __init__(self, model: str, usage: tuple[int, int], *turns: Turn, cached: int = 0) -> None:
        super().__init__()
        self.model = model
        self.turns = list(turns)
        self.usage = UsageDetails(input_token_count=usage[0], output_token_count=usage[1], total_token_count=sum(usage))
        if cached:
            self.usage["cache_read_input_token_count"] = cached

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        if stream:
            return ResponseStream(self._updates(), finalizer=ChatResponse.from_updates)
        return self._answer()

    async def _answer(self) -> ChatResponse:
        contents = self.turns.pop(0)
        reason = "tool_calls" if contents[-1].type == "function_call" else "stop"
        answer = Message("assistant", contents)
        return ChatResponse(messages=[answer], model=self.model, finish_reason=reason, usage_details=self.usage)

    async def _updates(self) -> AsyncIterator[ChatResponseUpdate]:
        for content in self.turns.pop(0):
            yield ChatResponseUpdate(contents=[content], role="assistant", model=self.model)
        yield ChatResponseUpdate(contents=[Content.from_usage(self.usage)], role="assistant", finish_reason="stop")


def says(*texts: str) -> Turn:
    """An answer in these pieces."""
    return [Content.from_text(text) for text in texts]


def calls(*asked: tuple[str, dict[str, str]]) -> Turn:
    """A request to call these tools, in parallel."""
    return [
        Content.from_function_call(call_id=f"{name}-{number}", name=name, arguments=arguments)
        for number, (name, arguments) in enumerate(asked)
    ]


async def research(topic: str) -> str:
    """Look a topic up."""
    client = FakeClient("fake-researcher", (20, 5), says(f"All about {topic}."))
    return str(await Agent(client=client, name="researcher").run(f"What is there to know about {topic}?"))


def publish(text: str) -> str:
    """Publish a text."""
    raise ConnectionError("no such channel")


def planner() -> Agent:
    """The agent that asks the others; the framework hands a tool's error to the model."""
    client = FakeClient(
        "fake-planner",
        (100, 10),
        calls(("research", {"topic": "tea"}), ("research", {"topic": "rain"})),
        calls(("publish", {"text": "Tea goes with rain."})),
        says("Tea goes with rain."),
        cached=40,
    )
    return Agent(client=client, name="planner", instructions="Plan, then publish.", tools=[research, publish])


async def run() -> str:
    """Ask the planner."""
    return str(await planner().run("What goes with rain?"))


async def tell() -> str:
    """Read the teller's answer until its first chunk is there, and leave."""
    client = FakeClient("fake-teller", (30, 3), says("Once ", "upon ", "a time."))
    first = ""
    async for update in Agent(client=client, name="teller").run("Tell me a story.", stream=True):
        first = update.text
        break
    return first


def main() -> None:
    """Run both, and print what they say."""
    print(asyncio.run(run()))
    print(asyncio.run(tell()))


if __name__ == "__main__":
    main()
