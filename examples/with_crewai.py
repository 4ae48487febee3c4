"""A crew of CrewAI's: a planner whose tools run researchers, and a teller whose answer is left early.

Run it with `python examples/with_crewai.py`. The models are a `BaseLLM` of our own that answers by a script, and tells
CrewAI's event bus of its calls as the built-in ones do.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

from crewai import Agent, BaseLLM, Crew, Task
from crewai.events.types.llm_events import LLMCallType
from crewai.llms.base_llm import llm_call_context
from crewai.tools import tool

Answer = str | list[dict[str, Any]]


class ScriptedLLM(BaseLLM):
    """Answers with what `script` makes of the number of tool results so far; needs no network and no key."""

    script: Callable[[int], Answer]
    usage: dict[str, int]
    chunks: Callable[[str], Any] = lambda text: ()

    def supports_function_calling(self) -> bool:
        return True

    def get_input_tokens_count(self, messages: Any, tools: Any = None, response_model: Any = None) -> int:
        return len(str(messages)) // 4

    def call(self, messages: Any, *given: Any, from_task: Any = None, from_agent: Any = None, **named: Any) -> Answer:
        caller = {"from_task": from_task, "from_agent": from_agent}
        with llm_call_context():
            self._emit_call_started_event(messages, tools=named.get("tools"), **caller)
            try:
                answer = self.script(sum(message["role"] == "tool" for message in messages))
                if isinstance(answer, str):
                    for chunk in self.chunks(answer):
                        self._emit_stream_chunk_event(chunk, call_type=LLMCallType.LLM_CALL, **caller)
            except Exception as error:
                self._emit_call_failed_event(str(error), **caller)
                raise
            self._track_token_usage_internal(self.usage)
            kind = LLMCallType.LLM_CALL if isinstance(answer, str) else LLMCallType.TOOL_CALL
            reason = "stop" if isinstance(answer, str) else "tool_calls"
            told = {"messages": messages, "usage": self.usage, "finish_reason": reason}
            self._emit_call_completed_event(answer, kind, **told, **caller)
            return answer


def calling(id: str, name: str, **arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def plan(results: int) -> Answer:
    if results == 0:
        return [calling("call_tea", "research", topic="tea"), calling("call_rain", "research", topic="rain")]
    if results == 2:
        return [calling("call_publish", "publish", text="Tea goes with rain.")]
    return "Tea goes with rain."


@tool("research")
def research(topic: str) -> str:
    """Find out about a topic."""
    llm = scripted("fake-researcher", lambda results: f"Much is known of {topic}.", 20, 5)
    researcher = Agent(role="researcher", goal="Know things", backstory="You read a lot.", llm=llm)
    return researcher.kickoff(f"What is known of {topic}?").raw


@tool("publish")
def publish(text: str) -> str:
    """Publish a text."""
    raise ConnectionError("no such channel")


def scripted(model: str, script: Callable[[int], Answer], input: int, output: int, **more: Any) -> ScriptedLLM:
    """A model of this name whose calls use so many tokens."""
    usage = {"prompt_tokens": input, "completion_tokens": output, "cached_prompt_tokens": more.pop("cached", 0)}
    return ScriptedLLM(model=model, provider="fake", script=script, usage=usage, **more)


def crew_of(role: str, llm: BaseLLM, asked: str, tools: list[Any] | None = None, **options: Any) -> Crew:
    """One agent at one task."""
    agent = Agent(role=role, goal=asked, backstory="You are brief.", llm=llm, tools=tools or [])
    task = Task(description=asked, expected_output="A sentence.", agent=agent)
    return Crew(name=f"{role}s", agents=[agent], tasks=[task], **options)


def run() -> str:
    """Let a planner ask two researchers at once, fail to publish, and answer all the same."""
    llm = scripted("fake-planner", plan, 100, 10, cached=40)
    return crew_of("planner", llm, "Say what goes with rain.", [research, publish]).kickoff().raw


async def tell() -> str:
    """Read the first chunk of a teller's answer, and leave."""
    left = threading.Event()

    def words(text: str) -> Any:
        first, *others = text.split(" ")
        yield first
        left.wait(10)  # as a model takes its time
        yield from others

    llm = scripted("fake-teller", lambda results: "Once upon a time it rained.", 30, 6, chunks=words, stream=True)
    try:
        async with await crew_of("teller", llm, "Tell a story.", stream=True).akickoff() as streaming:
            async for chunk in streaming:
                return chunk.content
    finally:
        left.set()
    return ""


def main() -> None:
    """Do both."""
    print(run())
    print(asyncio.run(tell()))


if __name__ == "__main__":
    main()
