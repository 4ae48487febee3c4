"""MCP, observed: clients and servers in one process, in two, and over HTTP; the same in mcp 1 and mcp 2."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import os
import socket
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import mcp.types
import pytest
import uvicorn
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client import streamable_http
from mcp.client.session import ClientSession as Session
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters import nearby
from otel_agentbus.adapters.losses import losses
from otel_agentbus.adapters.mcp import calls, clients, servers
from otel_agentbus.testing import Captured

from .shape import assert_outline, program

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of mcp 1, about its own settings, as it is imported
    EXAMPLE = program("mcp")
TWO = "send_request" in vars(Session)
MARK: contextvars.ContextVar[str] = contextvars.ContextVar("MARK", default="none")


@pytest.fixture(autouse=True)
def _nothing_goes_wrong() -> Iterator[None]:
    losses.counts.clear()
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    yield
    assert not losses.counts
    assert not nearby.calling


def server_with(**tools: Any) -> Any:
    server = EXAMPLE.MCPServer("tests")
    for name, body in tools.items():
        server.tool(name)(body)
    return server


def attributes_of(seen: Captured, name: str) -> dict[str, Any]:
    return dict(next(span.attributes for span in seen.spans if span.name == name and span.attributes))


# -- the program -------------------------------------------------------------------------------------------------------


async def test_the_program_is_seen_as_its_calls(seen: Captured) -> None:
    given = await EXAMPLE.run()
    assert given[:2] == ["tea is wet.", "rain is wet."]
    assert await EXAMPLE.leave() == "left"
    assert_outline(
        seen.spans,
        """
        execute_tool publish · !tool_error
        execute_tool research
        execute_tool research
        execute_tool tell · ~cancelled
        mcp.request
        """,
    )
    assert seen.bus.summary().total.calls == 0
    (agents,) = seen.bus.summary().agents
    assert (agents.tools, agents.tool_errors) == (4, 1)


async def test_it_runs_the_same_with_and_without_us() -> None:
    without = [await EXAMPLE.run(), await EXAMPLE.leave()]
    with adapters.instrument("mcp"), testing.capture():
        assert [await EXAMPLE.run(), await EXAMPLE.leave()] == without


async def test_under_an_agent_the_calls_are_its_tools(seen: Captured) -> None:
    with agentbus.agent("planner"):
        await EXAMPLE.run()
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ execute_tool publish · !tool_error
        ├─ execute_tool research
        └─ execute_tool research
        """,
    )
    events = [event for event in seen.events if event.kind == "domain"]
    assert [(event.name, event.data["method"], event.data["target"]) for event in events] == [  # type: ignore[attr-defined]
        ("mcp.request", "resources/read", "library://motto")
    ]


async def test_what_a_call_says_of_itself(seen: Captured) -> None:
    async with EXAMPLE.Client(EXAMPLE.server) as client:
        await client.call_tool("research", {"topic": "tea"})
    said = attributes_of(seen, "execute_tool research")
    assert said["mcp.method.name"] == "tools/call"
    assert ("mcp.protocol.version" in said) is TWO
    assert json.loads(said["gen_ai.tool.call.arguments"]) == {"topic": "tea"}
    assert json.loads(said["gen_ai.tool.call.result"]) == {"result": "tea is wet."}


async def test_content_is_not_captured_unless_asked() -> None:
    with adapters.instrument("mcp"), testing.capture() as seen:
        await EXAMPLE.run()
    assert "wet" not in json.dumps([dict(span.attributes or {}) for span in seen.spans])


# -- nesting -----------------------------------------------------------------------------------------------------------


async def test_what_a_tool_runs_is_nested_under_the_clients_call(seen: Captured) -> None:
    async def work() -> str:
        with agentbus.agent("inner"), agentbus.llm("m", provider="openai") as call:
            call.record(input_tokens=20, output_tokens=5)
        with trace.get_tracer("user").start_as_current_span("http"):
            found.append(trace.get_current_span().get_span_context().trace_id)
        return "worked"

    found: list[int] = []
    async with EXAMPLE.Client(server_with(work=work)) as client:
        with agentbus.agent("planner"):
            before = agentbus.current()
            await asyncio.gather(client.call_tool("work"), client.call_tool("work"))
            assert agentbus.current() is before
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ execute_tool work
        │  └─ invoke_agent inner
        │     └─ chat m · 20+5
        └─ execute_tool work
           └─ invoke_agent inner
              └─ chat m · 20+5
        """,
    )
    ids = {span.context.trace_id for span in seen.spans if span.context is not None}
    assert set(found) == ids


@pytest.mark.parametrize("name", ["research", "library_research", "mcp__library__research", "library.research"])
async def test_a_tool_that_a_framework_tells_of_is_not_told_twice(seen: Captured, name: str) -> None:
    async with EXAMPLE.Client(EXAMPLE.server) as client:
        with agentbus.agent("planner"), agentbus.observe.tool(name, tool_call_id="t1"):
            await client.call_tool("research", {"topic": "tea"})
    assert_outline(seen.spans, f"invoke_agent planner\n└─ execute_tool {name}")
    assert attributes_of(seen, f"execute_tool {name}")["mcp.method.name"] == "tools/call"


async def test_a_tool_of_another_name_has_the_call_below_it(seen: Captured) -> None:
    async with EXAMPLE.Client(EXAMPLE.server) as client:
        with agentbus.agent("planner"), agentbus.observe.tool("presearch"):
            await client.call_tool("research", {"topic": "tea"})
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        └─ execute_tool presearch
           └─ execute_tool research
        """,
    )


async def test_the_tools_body_sees_the_context_that_it_would_see_without_us() -> None:
    async def work() -> str:
        task = asyncio.current_task()
        return f"{MARK.get()} {task is not None and task is not asking}"

    asking = asyncio.current_task()
    MARK.set("mine")

    async def asked() -> str:
        async with EXAMPLE.Client(server_with(work=work)) as client:
            return str(EXAMPLE.text_of(await client.call_tool("work")))

    without = await asked()
    with adapters.instrument("mcp"), testing.capture():
        assert await asked() == without


async def test_the_applications_own_metadata_travels_and_is_not_changed(seen: Captured) -> None:
    async with EXAMPLE.Client(EXAMPLE.server) as client:
        session = getattr(client, "session", client)
        meta: Any = {"mine": 1}
        params = mcp.types.CallToolRequestParams(name="research", arguments={"topic": "tea"}, _meta=meta)
        request = mcp.types.CallToolRequest(params=params) if TWO else mcp.types.CallToolRequest(
            method="tools/call", params=params
        )  # fmt: skip
        before = request.model_dump()
        sent, told = clients.with_place(request)
        assert request.model_dump() == before
        with agentbus.agent("planner"):
            sent, told = clients.with_place(request)
        assert set(told) == {"mine", "traceparent", "agentbus"}
        assert sent.model_dump(by_alias=True)["params"]["_meta"] == told | ({} if TWO else {"progressToken": None})
        wrapped = request if TWO else mcp.types.ClientRequest(request)
        await session.send_request(wrapped, mcp.types.CallToolResult)
    assert_outline(seen.spans, "execute_tool research\ninvoke_agent planner")


@pytest.mark.parametrize(
    "meta",
    [
        {nearby.CLAUDE: ["no", "id"]},
        {"traceparent": 5, "agentbus": ["1;;;;;;;"], "baggage": "a=b," * 5_000},
        {"traceparent": "00-zz", "agentbus": "1;%ff;%ff;%ff;1;%ff;%ff;%ff"},
    ],
)
async def test_metadata_that_says_nonsense_hides_no_call(seen: Captured, meta: Any) -> None:
    async def work() -> str:
        return "worked"

    async with EXAMPLE.Client(server_with(work=work)) as client:
        session = getattr(client, "session", client)
        params = mcp.types.CallToolRequestParams(name="work", _meta=meta)
        request: Any = mcp.types.CallToolRequest(method="tools/call", params=params)
        found = vars(Session if TWO else Session.__mro__[1])["send_request"].__wrapped__
        await found(session, request if TWO else mcp.types.ClientRequest(request), mcp.types.CallToolResult)
    assert_outline(seen.spans, "execute_tool work")


@pytest.mark.skipif(not TWO, reason="mcp 1 makes no spans of its own")
async def test_beside_the_sdks_own_spans_ours_hang_below_ours(seen: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("mcp.shared._otel._tracer", provider.get_tracer("mcp-python-sdk"))

    async def work() -> str:
        with agentbus.agent("inner"):
            return "worked"

    async with served(server_with(work=work)) as url:
        with agentbus.agent("planner"):
            connect = streamable_http.streamable_http_client
            async with connect(url) as (read, write, *_), ClientSession(read, write) as session:
                await session.initialize()
                await session.call_tool("work")
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        └─ execute_tool work
           └─ invoke_agent inner
        """,
    )
    call = next(span.context for span in seen.spans if span.name == "execute_tool work")
    sent = next(span for span in exporter.get_finished_spans() if span.name == "MCP send tools/call work")
    assert sent.parent is not None
    assert call is not None
    assert sent.parent.span_id == call.span_id


async def test_a_server_that_is_asked_inside_of_the_tool_call_makes_none_of_its_own(seen: Captured) -> None:
    with agentbus.agent("planner"), agentbus.observe.tool("library_work"):
        one = servers.Served(calls.Asked("tools/call", "work", {"name": "work"}), {}, {})
        one.begin()
        one.end()
    assert_outline(seen.spans, "invoke_agent planner\n└─ execute_tool library_work")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_an_error_of_the_protocol_is_an_error_of_the_call(seen: Captured) -> None:
    async with EXAMPLE.Client(EXAMPLE.server) as client:
        with pytest.raises(Exception, match=r"nknown|not found"):
            await client.read_resource("library://none")
    (event,) = [event for event in seen.events if event.kind == "domain"]
    assert event.data["outcome"] == "error"  # type: ignore[attr-defined]
    assert "rpc.response.status_code" in event.data  # type: ignore[attr-defined]


async def test_a_call_that_takes_too_long_is_an_error(seen: Captured) -> None:
    from datetime import timedelta

    timeout: Any = 0.01 if TWO else timedelta(seconds=0.01)
    async with EXAMPLE.Client(EXAMPLE.server) as client:
        with pytest.raises(Exception, match="imed out"):
            await client.call_tool("tell", read_timeout_seconds=timeout)
    (span,) = seen.spans
    assert span.attributes is not None
    assert span.attributes["agentbus.outcome"] == "error"
    assert str(span.attributes["error.type"]).lower() == "mcp.shared.exceptions.mcperror"


async def test_a_budget_stops_the_call() -> None:
    budget = Budget("run", tokens=10, window="1d", on_exceeded="raise")
    with testing.capture(budgets=[budget]) as seen, adapters.instrument("mcp"):
        async with EXAMPLE.Client(EXAMPLE.server) as client:
            with agentbus.agent("planner") as run:
                with run.llm("m", provider="openai") as call:
                    call.record(input_tokens=20, output_tokens=5)
                with pytest.raises(BudgetExceeded):
                    await client.call_tool("research", {"topic": "tea"})
        assert [event.kind for event in seen.events].count("tool.start") == 0


async def test_what_breaks_in_us_never_reaches_the_run(seen: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    expected = await EXAMPLE.run()
    for owner, name in [(clients, "enclosing"), (clients, "carried"), (clients, "outcome_of"), (calls, "value_of"),
                        (servers, "extract"), (servers, "asked")]:  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, broken)
            assert await EXAMPLE.run() == expected
    assert losses.counts
    losses.counts.clear()
    nearby.calling.clear()


def test_off_puts_everything_back() -> None:
    with adapters.instrument("mcp") as on:
        places = [(owner, name) for owner, name, _ in adapters.active()["mcp"]._places()]  # type: ignore[attr-defined]
        during = [vars(owner)[name] for owner, name in places]
        on.off()
    before = [vars(owner)[name] for owner, name in places]
    with adapters.instrument("mcp"):
        pass
    assert [vars(owner)[name] for owner, name in places] == before
    assert not set(map(id, before)) & set(map(id, during))
    assert all(not hasattr(function, "__wrapped__") for function in before)


def test_threads_with_loops_of_their_own_do_not_mix(seen: Captured) -> None:
    def one() -> None:
        async def asked() -> None:
            with agentbus.agent("planner"):
                async with EXAMPLE.Client(EXAMPLE.server) as client:
                    await client.call_tool("research", {"topic": "tea"})

        asyncio.run(asked())

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_outline(seen.spans, "\n".join(["invoke_agent planner\n└─ execute_tool research"] * 3))


# -- two processes -----------------------------------------------------------------------------------------------------

SERVER = """
import json, sys, logging
import otel_agentbus as agentbus
from otel_agentbus import adapters, testing
try:
    from mcp.server import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer("library")

@server.tool()
async def research(topic: str) -> str:
    with agentbus.agent("researcher"):
        return topic

@server.tool()
async def publish(text: str) -> str:
    raise ConnectionError("no such channel")

with adapters.instrument("mcp"), testing.capture() as seen:
    server.run("stdio")
hexed = lambda c: None if c is None else f"{c.trace_id:032x}-{c.span_id:016x}"
with open(sys.argv[1], "w") as file:
    json.dump([[s.name, hexed(s.context), hexed(s.parent), dict(s.attributes)] for s in seen.spans], file)
"""


async def test_client_and_server_in_two_processes_are_one_trace(seen: Captured, tmp_path: Path) -> None:
    script, told = tmp_path / "server.py", tmp_path / "spans.json"
    script.write_text(SERVER)
    paths = os.pathsep.join(path for path in sys.path if path)  # the client hands on little of its environment
    parameters = StdioServerParameters(command=sys.executable, args=[str(script), str(told)], env={"PYTHONPATH": paths})
    with agentbus.agent("planner"):
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            await session.call_tool("research", {"topic": "tea"})
            await session.call_tool("publish", {"text": "x"})
    for _ in range(200):
        if told.exists() and told.read_text():
            break
        await asyncio.sleep(0.05)
    ours = {
        span.name: f"{span.context.trace_id:032x}-{span.context.span_id:016x}" for span in seen.spans if span.context
    }
    theirs = {name: (id, parent, said) for name, id, parent, said in json.loads(told.read_text())}
    assert set(theirs) == {"execute_tool research", "execute_tool publish", "invoke_agent researcher"}
    assert theirs["execute_tool research"][1] == ours["execute_tool research"]
    assert theirs["execute_tool publish"][1] == ours["execute_tool publish"]
    assert theirs["invoke_agent researcher"][1] == theirs["execute_tool research"][0]
    failed = theirs["execute_tool publish"][2]
    assert (failed["agentbus.outcome"], failed["error.type"]) == ("error", "tool_error")


# -- HTTP --------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(server: Any) -> AsyncIterator[str]:
    """The server behind a real port, in a thread of its own with a loop of its own."""
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    http = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="critical", lifespan="on"))
    thread = threading.Thread(target=lambda: http.run(sockets=[port]))
    thread.start()
    try:
        while not http.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port.getsockname()[1]}/mcp"
    finally:
        http.should_exit = True
        await asyncio.to_thread(thread.join)


async def test_over_http_a_server_of_this_process_is_found_by_what_travels(seen: Captured) -> None:
    async def work() -> str:
        with agentbus.agent("inner"):
            return "worked"

    connect = getattr(streamable_http, "streamable_http_client", None) or streamable_http.streamablehttp_client
    async with served(server_with(work=work)) as url:
        with agentbus.agent("planner"):
            async with connect(url) as (read, write, *_), ClientSession(read, write) as session:
                await session.initialize()
                await session.call_tool("work")
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        └─ execute_tool work
           └─ invoke_agent inner
        """,
    )


async def test_a_call_from_a_client_that_is_not_observed_is_continued_from_its_trace_context(seen: Captured) -> None:
    async def work() -> str:
        return "worked"

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    there = trace.SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), True, trace.TraceFlags(1))
    async with EXAMPLE.Client(server_with(work=work)) as client:
        session = getattr(client, "session", client)
        meta: Any = {"traceparent": parent}
        params = mcp.types.CallToolRequestParams(name="work", _meta=meta)
        request: Any = mcp.types.CallToolRequest(method="tools/call", params=params)
        wrapped = request if TWO else mcp.types.ClientRequest(request)
        found = vars(Session if TWO else Session.__mro__[1])["send_request"].__wrapped__
        with trace.use_span(trace.NonRecordingSpan(there)):  # mcp 2 writes the context of here into the metadata
            await found(session, wrapped, mcp.types.CallToolResult)
    (span,) = seen.spans
    assert span.name == "execute_tool work"
    assert span.context is not None
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (there.trace_id, there.span_id)


async def test_a_budget_of_the_servers_answers_the_call_with_an_error() -> None:
    asked: list[str] = []

    async def work() -> str:
        asked.append("work")
        return "worked"

    budget = Budget("run", tokens=10, window="1d", on_exceeded="raise")
    with testing.capture(budgets=[budget]), adapters.instrument("mcp"):
        with agentbus.llm("m", provider="openai") as call:
            call.record(input_tokens=20, output_tokens=5)
        async with EXAMPLE.Client(server_with(work=work)) as client:
            session = getattr(client, "session", client)
            params = mcp.types.CallToolRequestParams(name="work")
            request: Any = mcp.types.CallToolRequest(method="tools/call", params=params)
            wrapped = request if TWO else mcp.types.ClientRequest(request)
            found = vars(Session if TWO else Session.__mro__[1])["send_request"].__wrapped__
            with pytest.raises(Exception, match=r"is used up|[Ii]nternal"):
                await found(session, wrapped, mcp.types.CallToolResult)
    assert asked == []
