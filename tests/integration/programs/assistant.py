"""A pydantic-ai program with sub-agents in parallel tools; not one line of it is ours but the first two in main()."""

from __future__ import annotations

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

import otel_agentbus as agentbus
from otel_agentbus import contract


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) == 1 and info.function_tools:
        calls = [ToolCallPart(tool.name, {"topic": "weather"}) for tool in info.function_tools]
        return ModelResponse(calls)
    return ModelResponse([TextPart("done")])


expert = Agent(FunctionModel(answer), name="expert")
assistant = Agent(FunctionModel(answer), name="assistant")


@assistant.tool_plain
async def look_up(topic: str) -> str:
    return (await expert.run(topic)).output


@assistant.tool_plain
async def double_check(topic: str) -> str:
    return (await expert.run(topic)).output


@assistant.tool_plain
def fails(topic: str) -> str:
    raise TimeoutError("the archive does not answer")


async def run() -> None:
    try:
        await assistant.run("What is the weather like?")
    except TimeoutError:
        pass


def main() -> None:
    with open(sys.argv[1], "wb") as journal, agentbus.connect(instrument="pydantic-ai") as bus:
        bus.subscribe(lambda event: journal.write(contract.write(event) + b"\n"))
        asyncio.run(run())


if __name__ == "__main__":
    main()
