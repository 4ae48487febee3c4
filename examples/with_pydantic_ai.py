"""pydantic-ai, offline: a planner with two researchers, a tool that fails, and a teller who is left early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic_ai import Agent, ModelMessage, ModelResponse, RequestUsage, TextPart, ToolCallPart
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ModelRequest, ModelResponsePart, RetryPromptPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


def results(messages: list[ModelMessage]) -> int:
    """How many tool calls have been answered."""
    requests = [message for message in messages if isinstance(message, ModelRequest)]
    parts = [part for request in requests for part in request.parts]
    return sum(isinstance(part, (ToolReturnPart, RetryPromptPart)) for part in parts)


def plan(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    steps: dict[int, list[ModelResponsePart]] = {
        0: [
            ToolCallPart("research", {"topic": "tea"}, tool_call_id="call-1"),
            ToolCallPart("research", {"topic": "rain"}, tool_call_id="call-2"),
        ],
        2: [ToolCallPart("publish", {"text": "Tea goes with rain."}, tool_call_id="call-3")],
        3: [TextPart("Tea goes with rain.")],
    }
    usage = RequestUsage(input_tokens=100, output_tokens=10, cache_read_tokens=40)
    return ModelResponse(parts=steps[results(messages)], usage=usage)


def find_out(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart("It is wet.")], usage=RequestUsage(input_tokens=20, output_tokens=5))


async def say(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    for word in ("Tea", " comes", " from", " far", " away."):
        yield word
        await asyncio.sleep(0)


planner = Agent(FunctionModel(plan, model_name="fake-planner"), name="planner", instructions="Plan, research, publish.")
researcher = Agent(FunctionModel(find_out, model_name="fake-researcher"), name="researcher")
teller = Agent(FunctionModel(stream_function=say, model_name="fake-teller"), name="teller")


def send(text: str) -> None:
    raise ConnectionError("no such channel")


@planner.tool_plain
async def research(topic: str) -> str:
    """Find out about a topic."""
    result = await researcher.run(topic)
    return result.output


@planner.tool_plain
def publish(text: str) -> str:
    """Publish a text."""
    try:
        send(text)
    except ConnectionError as error:
        raise ToolFailed(str(error)) from error  # the model is told, and goes on
    return "published"


async def run() -> str:
    result = await planner.run("What goes with tea?")
    return result.output


async def tell() -> str:
    async with teller.run_stream("Tell me of tea.") as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            return text
    return ""


async def main() -> None:
    print(await run())
    print(await tell())


if __name__ == "__main__":
    asyncio.run(main())
