"""Google ADK: a planner with two parallel tool calls that run a researcher each, a tool that fails, a streamed answer.

Runs offline: the models are scripted subclasses of ADK's own `BaseLlm`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types


class ScriptedLlm(BaseLlm):
    """Answers from a script: the next list of parts for each answer of its own that a conversation already has."""

    script: list[list[types.Part]]
    usage: types.GenerateContentResponseUsageMetadata

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        parts = self.script[sum(content.role == "model" for content in llm_request.contents)]
        for word in (parts[0].text or "").split() if stream else []:
            await asyncio.sleep(0.01)  # as slow as a model
            yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text=word)]), partial=True)
        yield LlmResponse(
            content=types.Content(role="model", parts=parts),
            model_version=self.model,
            finish_reason=types.FinishReason.STOP,
            usage_metadata=self.usage,
        )


def tokens(asked: int, answered: int, cached: int | None = None) -> types.GenerateContentResponseUsageMetadata:
    """What one answer used."""
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=asked,
        candidates_token_count=answered,
        total_token_count=asked + answered,
        cached_content_token_count=cached,
    )


def call(id: str, name: str, **arguments: str) -> types.Part:
    """A tool call as a model writes it."""
    return types.Part(function_call=types.FunctionCall(id=id, name=name, args=arguments))


researcher = LlmAgent(
    name="researcher",
    instruction="Say what is known about a topic.",
    model=ScriptedLlm(model="fake-researcher", script=[[types.Part(text="It is wet.")]], usage=tokens(20, 5)),
)


async def research(topic: str, tool_context: ToolContext) -> str:
    """Find out about a topic."""
    findings: str = await AgentTool(researcher).run_async(args={"request": topic}, tool_context=tool_context)
    return findings


def publish(text: str) -> str:
    """Publish a text."""
    raise ConnectionError("no such channel")


def say_what_failed(error: Exception, **_: Any) -> dict[str, str]:
    """Hand a tool's error to the model instead of ending the run with it."""
    return {"error": str(error)}


planner = LlmAgent(
    name="planner",
    instruction="Plan, research, publish.",
    model=ScriptedLlm(
        model="fake-planner",
        script=[
            [call("call-1", "research", topic="tea"), call("call-2", "research", topic="rain")],
            [call("call-3", "publish", text="Tea goes with rain.")],
            [types.Part(text="Tea goes with rain.")],
        ],
        usage=tokens(100, 10, cached=40),
    ),
    tools=[research, publish],
    on_tool_error_callback=say_what_failed,
)
story = types.Part(text="Once upon a time it rained.")
teller = LlmAgent(name="teller", model=ScriptedLlm(model="fake-teller", script=[[story]], usage=tokens(10, 7)))


async def run() -> str:
    """Let the planner work; gives back its answer."""
    async with InMemoryRunner(agent=planner, app_name="words") as runner:
        events = await runner.run_debug("Write about tea and rain.", session_id="session-1", quiet=True)
    return str(events[-1].content.parts[0].text)


async def tell() -> str:
    """Let the teller stream, and leave after the first chunk."""
    async with InMemoryRunner(agent=teller, app_name="words") as runner:
        await runner.session_service.create_session(app_name="words", user_id="ada", session_id="session-2")
        message = types.Content(role="user", parts=[types.Part(text="Tell a story.")])
        streaming = RunConfig(streaming_mode=StreamingMode.SSE)
        async with aclosing(
            runner.run_async(user_id="ada", session_id="session-2", new_message=message, run_config=streaming)
        ) as events:
            async for event in events:
                return str(event.content.parts[0].text)
    return ""


async def main() -> None:
    """Both, one after the other."""
    print(await run(), await tell(), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
