"""A planner, its researchers and a teller with LangChain and LangGraph. No network, no key: the models are scripted.

python examples/with_langchain.py
otel-agentbus run examples/with_langchain.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool


class ScriptedModel(GenericFakeChatModel):
    """LangChain's own fake chat model, under a name, and willing to take tools."""

    model: str

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def used(input_tokens: int, output_tokens: int, cached: int = 0) -> Any:
    """What a provider would have counted."""
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "input_token_details": {"cache_read": cached},
    }


def plan() -> Iterator[AIMessage]:
    """What the planner's model answers, call by call."""
    topics = [
        {"name": "research", "args": {"topic": "tea"}, "id": "call-tea"},
        {"name": "research", "args": {"topic": "rain"}, "id": "call-rain"},
    ]
    publish = [{"name": "publish", "args": {"text": "Tea goes with rain."}, "id": "call-publish"}]
    yield AIMessage("", tool_calls=topics, usage_metadata=used(100, 10, cached=40))
    yield AIMessage("", tool_calls=publish, usage_metadata=used(100, 10, cached=40))
    yield AIMessage("Tea goes with rain.", usage_metadata=used(100, 10, cached=40))


def facts() -> AIMessage:
    """What the researchers' model answers, whoever asks."""
    return AIMessage("It is wet.", usage_metadata=used(20, 5))


researcher = create_agent(
    ScriptedModel(model="fake-researcher", messages=iter(facts, None)), name="researcher", system_prompt="Find facts."
)


@tool
def research(topic: str) -> str:
    """Find facts about a topic."""
    answer = researcher.invoke({"messages": [{"role": "user", "content": topic}]})
    return str(answer["messages"][-1].content)


@tool
def publish(text: str) -> str:
    """Publish a text."""
    raise ConnectionError("no such channel")


@wrap_tool_call
def tell_the_model(request: Any, handler: Callable[[Any], Any]) -> Any:
    """Give a tool's failure to the model instead of ending the run."""
    try:
        return handler(request)
    except ConnectionError as error:
        return ToolMessage(f"Failed: {error}", tool_call_id=request.tool_call["id"], status="error")


def planner() -> Any:
    """An agent with two tools, and its script from the beginning."""
    model = ScriptedModel(model="fake-planner", messages=plan())
    return create_agent(model, [research, publish], name="planner", middleware=[tell_the_model])


def teller() -> Any:
    """An agent that only tells."""
    model = ScriptedModel(model="fake-teller", messages=iter(["Once upon a time it rained."]))
    return create_agent(model, name="teller")


def run() -> str:
    """Let the planner work."""
    answer = planner().invoke({"messages": [{"role": "user", "content": "What goes with rain?"}]})
    return str(answer["messages"][-1].content)


def tell() -> str:
    """Listen to the teller until its first words, and leave."""
    stream = teller().stream({"messages": [{"role": "user", "content": "Tell me."}]}, stream_mode="messages")
    first = ""
    for chunk, _ in stream:
        first = str(chunk.content)
        break
    stream.close()
    return first


def main() -> None:
    """Print what the agents say."""
    print(run())
    print(tell())


if __name__ == "__main__":
    main()
