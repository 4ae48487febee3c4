"""What the tests of `tail`, `tree` and `stats` share: a journal with a story, and the commands in their places."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from otel_agentbus.cli import app
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    DeploymentStarted,
    DomainEvent,
    Event,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
)
from otel_agentbus.journal import SegmentJournal
from otel_agentbus.recording import Opening, Recorder

from .bridging import at
from .receivers import forget_environment

PLANNER: dict[str, Any] = {"agent": "planner", "invocation_id": "run-7f3a", "root_invocation_id": "run-7f3a"}
SEARCHER: dict[str, Any] = {
    "agent": "searcher",
    "invocation_id": "run-7f3a-sub",
    "parent_invocation_id": "run-7f3a",
    "root_invocation_id": "run-7f3a",
}
LATER: dict[str, Any] = {"agent": "planner", "invocation_id": "run-9c21", "root_invocation_id": "run-9c21"}
CLAUDE: dict[str, Any] = {"model_provider": "anthropic", "model": "claude-sonnet-4-5"}
LOCAL: dict[str, Any] = {"model_provider": "ollama", "model": "qwen3:8b"}


def story() -> list[Event]:
    """One run with all that can happen, a deployment meanwhile, and a run that has not ended."""
    told: list[Event] = [
        AgentStart(time_ns=at(0), **PLANNER, **CLAUDE),
        LlmRequest(time_ns=at(0), **PLANNER, **CLAUDE, messages_count=1, call_id="c1"),
        LlmResponse(
            **(PLANNER | CLAUDE | {"time_ns": at(2), "call_id": "c1", "duration": 2.0, "success": True}),
            input_tokens=1200,
            cache_read_input_tokens=800,
            output_tokens=40,
            cost_usd=0.0125,
        ),
        DeploymentStarted(time_ns=at(2), deploy_id="prompts-7"),
        ToolCallStart(time_ns=at(2), **PLANNER, tool="ask", tool_call_id="t1"),
        AgentStart(time_ns=at(2), parent_call_id="t1", **SEARCHER, **LOCAL),
        CacheHit(time_ns=at(2), **SEARCHER, cache_type="prompt", tokens_saved=100),
        ToolCallStart(time_ns=at(2), **SEARCHER, tool="search", tool_call_id="t2", attributes={"mirror": "eu"}),
        LlmRequest(time_ns=at(2.5), **SEARCHER, **LOCAL, messages_count=3, call_id="c2"),
        LlmResponse(
            **(SEARCHER | LOCAL | {"time_ns": at(3), "call_id": "c2", "duration": 0.5, "success": True}),
            input_tokens=300,
            output_tokens=20,
        ),
        ToolCall(
            **(SEARCHER | {"time_ns": at(7), "tool": "search", "tool_call_id": "t2", "duration": 5.0}),
            success=False,
            error_type="Unreachable",
            error_message="no answer",
        ),
        AgentEnd(time_ns=at(7), duration=5.0, outcome="cancelled", **SEARCHER),
        ToolCall(time_ns=at(8), **PLANNER, tool="ask", tool_call_id="t1", duration=6.0, success=True, result="a"),
        DomainEvent(time_ns=at(9), **PLANNER, name="answer_found", data={"score": 87}),
        AgentEnd(time_ns=at(10), duration=10.0, **PLANNER),
        AgentStart(time_ns=at(20), **LATER),
        ToolCallStart(time_ns=at(20), **LATER, tool="wait", tool_call_id="t1"),
        LlmRequest(time_ns=at(21), **LATER, **CLAUDE, messages_count=1, call_id="c1"),
        LlmResponse(
            **(LATER | CLAUDE | {"time_ns": at(22), "call_id": "c1", "duration": 1.0, "success": False}),
            error_type="RateLimited",
            error_message="429",
        ),
    ]
    for seq, event in enumerate(told):
        event.seq = seq
        event.source = "source-1"
    return told


def record(directory: Path, events: Iterable[Event], source: str = "source-1") -> Recorder:
    """Write these into a journal, as a process of this source would; it lives until it is closed."""
    opening = Opening(source=source, time_ns=at(0))
    recorder = Recorder(SegmentJournal(directory, opening=opening.write, keep=True), "event")
    for event in events:
        recorder(event)
    return recorder


@contextmanager
def looking_around(tmp_path: Path) -> Iterator[Path]:
    """A clean environment in UTC, and the journal of the story, whose process is gone."""
    with pytest.MonkeyPatch.context() as patch:
        forget_environment(patch)
        patch.setenv("TZ", "UTC")
        time.tzset()
        directory = tmp_path / "journal"
        record(directory, story()).close()
        yield directory
    time.tzset()


def run(*arguments: str | Path, width: int = 80, **environment: str) -> Result:
    """The command in a pipe, in this process."""
    settings = {"COLUMNS": str(width), **environment}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=settings)


def environment_of(**settings: str) -> dict[str, str]:
    """Of a process of its own, with nothing in it that would change what is printed."""
    others = ("OTEL_", "AGENTBUS_", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_", "GITHUB_ACTIONS")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(others)}
    path = os.pathsep.join(filter(None, sys.path))
    return {**kept, "PYTHONPATH": path, "PYTHONUTF8": "1", "TZ": "UTC", **settings}


def started(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own, with its output in pipes."""
    command = [sys.executable, "-m", "otel_agentbus", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment_of(), **{**pipes, **options})


def on_a_terminal(*arguments: str | Path, width: int, **settings: str) -> str:
    """What the command shows on a terminal of this width."""
    ours, theirs = pty.openpty()
    variables = environment_of(TERM="xterm-256color", COLUMNS=str(width), LINES="50", **settings)
    command = [sys.executable, "-m", "otel_agentbus", *map(str, arguments)]
    with subprocess.Popen(
        command, env=variables, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _part(ours), b""))
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode().replace("\r\n", "\n")


def _part(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so where the other end is closed
        return b""
