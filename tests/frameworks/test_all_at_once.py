"""Every adapter on at once, and foreign instrumentations beside them in one process: one trace, each token once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .everything import PLANNERS

ROOT = Path(__file__).parent.parent.parent
TREES = Path(__file__).parent / "trees"
#: What one planner with its two researchers makes of calls and tokens, and what the chief adds.
CALLS = 5 * len(PLANNERS) + 2
TOKENS = {
    "input": 340 * len(PLANNERS) + 2_000,
    "output": 40 * len(PLANNERS) + 200,
    "cache_read": 120 * len(PLANNERS),
}
#: Those that the program uses; the queues and MCP come along with the others.
ACTIVE = {"agent-framework", "langchain", "llama-index", "openai-agents", "otel", "pydantic-ai", "strands"}


def told(kind: str) -> dict[str, Any]:
    """What the program has seen of itself."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("everything.py")), kind],
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "otel_agentbus" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def planner_of(framework: str) -> list[str]:
    """The planner in that framework's own tree."""
    lines = (TREES / f"{framework.replace('-', '_')}.txt").read_text("utf-8").splitlines()
    begins = lines.index("invoke_agent planner")
    ends = next((n for n, line in enumerate(lines) if n > begins and line.startswith("invoke_agent")), len(lines))
    return lines[begins:ends]


def expected() -> str:
    """The chief with its tool, and every planner below that."""
    planners = sorted(planner_of(framework) for framework in PLANNERS)
    lines = ["invoke_agent chief", "├─ chat fake-chief · 1000+100", "├─ chat fake-chief · 1000+100"]
    lines.append("└─ execute_tool everybody")
    for planner in planners:
        last = planner is planners[-1]
        for number, line in enumerate(planner):
            lead = ("└─ " if last else "├─ ") if number == 0 else ("   " if last else "│  ")
            lines.append(f"   {lead}{line}")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["sdk", "logfire"])
def test_all_of_them_make_one_trace_and_count_each_token_once(kind: str) -> None:
    seen = told(kind)

    assert (seen["traces"], seen["roots"]) == (1, ["POST /ask" if kind == "sdk" else "invoke_agent chief"])
    assert (seen["calls"], seen["tokens"]) == (CALLS, TOKENS)
    assert seen["runs"] == {"chief": 1, "planner": len(PLANNERS), "researcher": 2 * len(PLANNERS)}
    assert set(seen["active"]) >= ACTIVE
    foreign = {"openinference.instrumentation.openai_agents", "strands.telemetry.tracer", "agent_framework"}
    beside = {"logfire": "pydantic-ai", "sdk": "openinference.instrumentation.langchain"}[kind]
    assert set(seen["scopes"]) >= {"otel_agentbus", beside, *foreign}
    if kind == "sdk":  # on Logfire's provider ids are its own, and other spans stand between ours
        assert seen["ours"] == expected()
