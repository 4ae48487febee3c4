"""A planner whose tools ask researchers, a tool that fails, and a story that nobody hears to its end: in LlamaIndex.

Offline: the model reads from a script what it answers, as LlamaIndex's own mock does, and says what that has cost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.llms.mock import MockFunctionCallingLLM
from workflows.errors import WorkflowCancelledByUser


class ScriptedLLM(MockFunctionCallingLLM):
    """A model that gives its turns one after the other: texts, in chunks, or tool calls."""

    model: str
    turns: list[Any]
    usage: dict[str, Any]

    def _turn(self, messages: Sequence[ChatMessage]) -> tuple[list[str], list[Any]]:
        done = sum(message.role == "assistant" for message in messages)
        turn = self.turns[done % len(self.turns)]
        if isinstance(turn, str):
            return turn.splitlines(keepends=True), []
        return [""], [ToolCallBlock(tool_call_id=id, tool_name=name, tool_kwargs=given) for id, name, given in turn]

    def _answer(self, text: str, calls: list[Any]) -> ChatResponse:
        blocks = [*ChatMessage(text).blocks, *calls] if text else calls
        reason = "tool_calls" if calls else "stop"
        raw = {"model": self.model, "usage": self.usage, "choices": [{"finish_reason": reason}]}
        return ChatResponse(message=ChatMessage(role="assistant", blocks=blocks), raw=raw)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        chunks, calls = self._turn(messages)
        return self._answer("".join(chunks), calls)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        chunks, calls = self._turn(messages)

        async def spoken() -> Any:
            text = ""
            for chunk in chunks:
                text += chunk
                answer = self._answer(text, calls)
                answer.delta = chunk
                yield answer
                await asyncio.sleep(0.01)

        return spoken()


researching = ScriptedLLM(
    model="fake-researcher", turns=["It is wet."], usage={"prompt_tokens": 20, "completion_tokens": 5}
)
researcher = FunctionAgent(name="researcher", llm=researching, streaming=False)


async def research(topic: str) -> str:
    """Look something up."""
    return str(await researcher.run(f"Tell me about {topic}."))


def publish(text: str) -> str:
    """Publish a text."""
    raise ConnectionError("no such channel")


planning = ScriptedLLM(
    model="fake-planner",
    turns=[
        [("call-tea", "research", {"topic": "tea"}), ("call-rain", "research", {"topic": "rain"})],
        [("call-publish", "publish", {"text": "Tea goes with rain."})],
        "Tea goes with rain.",
    ],
    usage={"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}},
)
planner = FunctionAgent(
    name="planner",
    system_prompt="Find out what goes with what.",
    tools=[research, publish],
    llm=planning,
    streaming=False,
)

telling = ScriptedLLM(
    model="fake-teller", turns=["Once\nthere\nwas\nrain."], usage={"prompt_tokens": 15, "completion_tokens": 3}
)
teller = FunctionAgent(name="teller", llm=telling)


async def run() -> str:
    """The planner's answer."""
    return str(await planner.run("What goes with tea?"))


async def tell() -> str:
    """The first chunk of a story; then nobody listens any more."""
    handler = teller.run("Tell me a story.")
    first = ""
    async for event in handler.stream_events():
        if isinstance(event, AgentStream):
            first = event.delta
            break
    await handler.cancel_run()
    with suppress(WorkflowCancelledByUser):
        await handler
    return first


async def main() -> None:
    print(await run())
    print(json.dumps(await tell()))


if __name__ == "__main__":
    asyncio.run(main())
