"""A planner with two researchers and a tool that fails, and a teller who is left early, in the Claude Agent SDK.

No network and no key: `Offline` is a transport of the SDK that stands in for the `claude` program and says what a
script has it say, in the program's own JSON lines. Nothing here knows that it is observed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from claude_agent_sdk import (
    AgentDefinition,
    ClaudeAgentOptions,
    ResultMessage,
    Transport,
    create_sdk_mcp_server,
    query,
    tool,
)
from claude_agent_sdk.types import StreamEvent

SESSION = {"session_id": "offline", "uuid": "u"}


@tool("publish", "Publish a text.", {"text": str})
async def publish(arguments: dict[str, Any]) -> dict[str, Any]:
    raise ConnectionError("no such channel")


def planner_options() -> ClaudeAgentOptions:
    return ClaudeAgentOptions(
        model="fake-planner",
        extra_args={"agent": "planner"},
        agents={"researcher": AgentDefinition("Knows a topic.", "Research the topic.", model="fake-researcher")},
        mcp_servers={"press": create_sdk_mcp_server("press", tools=[publish])},
        allowed_tools=["Agent", "mcp__press__publish"],
    )


async def run(prompt: str = "Write about tea and rain.") -> str:
    answer = ""
    async for message in query(prompt=prompt, options=planner_options(), transport=Offline(planner)):
        if isinstance(message, ResultMessage):
            answer = message.result or ""
    return answer


async def tell() -> str:
    options = ClaudeAgentOptions(model="fake-teller", extra_args={"agent": "teller"}, include_partial_messages=True)
    async with aclosing(query(prompt="Tell it.", options=options, transport=Offline(teller))) as messages:
        async for message in messages:
            if isinstance(message, StreamEvent) and message.event["type"] == "content_block_delta":
                return str(message.event["delta"]["text"])
    return ""


# -- what the program says ---------------------------------------------------------------------------------------------


class Offline(Transport):
    def __init__(self, script: Callable[[Offline], AsyncIterator[dict[str, Any]]]) -> None:
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._script = script

    async def connect(self) -> None: ...
    async def close(self) -> None: ...
    async def end_input(self) -> None: ...

    def is_ready(self) -> bool:
        return True

    async def write(self, data: str) -> None:
        self.heard.put_nowait(json.loads(data))

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (heard := await self.heard.get())["type"] != "user":
            answer = {"subtype": "success", "request_id": heard["request_id"], "response": {}}
            yield {"type": "control_response", "response": answer}
        async for line in self._script(self):
            yield line


def init(model: str) -> dict[str, Any]:
    return {"type": "system", "subtype": "init", "model": model, **SESSION}


def says(model: str, id: str, *content: Any, usage: tuple[int, int, int], parent: str | None = None) -> dict[str, Any]:
    blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    tokens = {"input_tokens": usage[0], "cache_read_input_tokens": usage[1], "output_tokens": usage[2]}
    message = {"id": id, "model": model, "role": "assistant", "content": blocks, "usage": tokens}
    return {"type": "assistant", "message": message, "parent_tool_use_id": parent, **SESSION}


def use(id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def gives(id: str, text: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "tool_result", "tool_use_id": id, "content": text, **more}]
    return {"type": "user", "message": {"role": "user", "content": content}, "parent_tool_use_id": None, **SESSION}


async def asks(cli: Offline, id: str, tool: str, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The program calls a tool of the server in this process, and then says what that gave."""
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "claude", "version": "0"}}
    call = {"name": tool, "arguments": arguments, "_meta": {"claudecode/toolUseId": id}}
    steps = {"initialize": about, "notifications/initialized": {}, "tools/call": call}
    for number, (method, params) in enumerate(steps.items()):
        numbered = {} if method.startswith("notifications/") else {"id": number}
        message = {"jsonrpc": "2.0", "method": method, "params": params, **numbered}
        request = {"subtype": "mcp_message", "server_name": "press", "message": message}
        yield {"type": "control_request", "request_id": f"mcp-{number}", "request": request}
        answer = (await cli.heard.get())["response"]["response"]["mcp_response"]
    result = answer["result"]
    yield gives(id, result["content"][0]["text"], is_error=result.get("isError", result.get("is_error", False)))


async def planner(cli: Offline) -> AsyncIterator[dict[str, Any]]:
    usage = (60, 40, 10)
    yield init("fake-planner")
    for id, topic in (("t1", "tea"), ("t2", "rain")):  # two content blocks of one answer
        asked = use(id, "Agent", subagent_type="researcher", description=topic, prompt=f"research {topic}")
        yield says("fake-planner", "m1", asked, usage=usage)
    for id, topic in (("t1", "tea"), ("t2", "rain")):
        yield {"type": "system", "subtype": "task_started", "task_id": f"task-{id}", "tool_use_id": id,
               "task_type": "local_agent", "description": topic, **SESSION}  # fmt: skip
    for id, topic in (("t2", "rain"), ("t1", "tea")):
        yield says("fake-researcher", f"m-{id}", f"{topic} is wet.", usage=(20, 0, 5), parent=id)
        yield gives(id, f"{topic} is wet.")
    yield says("fake-planner", "m2", use("t3", "mcp__press__publish", text="Tea, rain."), usage=usage)
    async for line in asks(cli, "t3", "publish", {"text": "Tea, rain."}):
        yield line
    yield says("fake-planner", "m3", "Tea goes with rain.", usage=usage)
    yield {"type": "result", "subtype": "success", "is_error": False, "duration_ms": 1, "duration_api_ms": 1,
           "num_turns": 3, "result": "Tea goes with rain.", "total_cost_usd": 0.01, **SESSION}  # fmt: skip


async def teller(cli: Offline) -> AsyncIterator[dict[str, Any]]:
    yield init("fake-teller")
    usage = {"input_tokens": 30, "output_tokens": 1}
    start = {"id": "m1", "model": "fake-teller", "role": "assistant", "content": [], "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    events += [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
               for word in ("Tea ", "goes ", "with ", "rain.")]  # fmt: skip
    for event in events:
        yield {"type": "stream_event", "event": event, "parent_tool_use_id": None, **SESSION}


async def main() -> None:
    print(await run())
    print(await tell())


if __name__ == "__main__":
    asyncio.run(main())
