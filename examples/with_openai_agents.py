"""OpenAI Agents SDK, offline: a planner with two researchers, a tool that fails, and a teller who is left early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, Usage, function_tool, set_trace_processors
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails


class FakeModel(Model):
    """Answers from a script, by the number of tool results that it is shown."""

    def __init__(self, model: str, usage: tuple[int, int, int], script: dict[int, list[Any]]) -> None:
        self.model = model
        self.usage = usage
        self.script = script

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        asked, answered, cached = self.usage
        usage = Usage(requests=1, input_tokens=asked, output_tokens=answered, total_tokens=asked + answered)
        usage.input_tokens_details.cached_tokens = cached
        return ModelResponse(output=self.output(input), usage=usage, response_id=None)

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        output = self.output(input)
        texts = [item.content[0].text for item in output if item.type == "message"]
        for word in " ".join(texts).split():
            yield ResponseTextDeltaEvent.model_construct(type="response.output_text.delta", delta=word)
            await asyncio.sleep(0)
        asked, answered, cached = self.usage
        usage = ResponseUsage(
            input_tokens=asked,
            output_tokens=answered,
            total_tokens=asked + answered,
            input_tokens_details=InputTokensDetails.model_construct(cached_tokens=cached),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        )
        response = Response.model_construct(id="response", model=self.model, output=output, usage=usage)
        yield ResponseCompletedEvent.model_construct(type="response.completed", response=response)

    def output(self, input: Any) -> list[Any]:
        results = [item for item in input if isinstance(item, dict) and item.get("type") == "function_call_output"]
        return self.script[len(results)]


def says(text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(text=text, type="output_text", annotations=[])
    return ResponseOutputMessage(id="message", type="message", role="assistant", status="completed", content=[content])


def calls(call_id: str, name: str, **arguments: str) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        call_id=call_id, name=name, arguments=json.dumps(arguments), type="function_call", id=call_id
    )


researcher = Agent(name="researcher", model=FakeModel("fake-researcher", (20, 5, 0), {0: [says("It is wet.")]}))


@function_tool
async def research(topic: str) -> str:
    """Find out about a topic."""
    result = await Runner.run(researcher, topic)
    return result.final_output


@function_tool
def publish(text: str) -> str:
    """Publish a text."""
    raise ConnectionError("no such channel")


plan = {
    0: [calls("call-1", "research", topic="tea"), calls("call-2", "research", topic="rain")],
    2: [calls("call-3", "publish", text="Tea goes with rain.")],
    3: [says("Tea goes with rain.")],
}
planner = Agent(
    name="planner",
    instructions="Plan, research, publish.",
    model=FakeModel("fake-planner", (100, 10, 40), plan),
    tools=[research, publish],
)
teller = Agent(
    name="teller", model=FakeModel("fake-teller", (30, 6, 0), {0: [says("Tea comes from far away, by sea.")]})
)


async def run() -> str:
    result = await Runner.run(planner, "What goes with tea?")
    return result.final_output


async def tell() -> str:
    result = Runner.run_streamed(teller, "Tell me of tea.")
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            result.cancel()
            return event.data.delta
    return ""


async def main() -> None:
    print(await run())
    print(await tell())


if __name__ == "__main__":
    set_trace_processors([])  # upload nothing
    asyncio.run(main())
