"""What the page about job queues shows without a server; `integration/test_queues_page.py` runs the rest."""

from __future__ import annotations

import json
from typing import Any

import otel_agentbus as agentbus
from otel_agentbus import jobs, testing
from otel_agentbus.adapters import ADAPTERS

from .queues_page import PAGE, blocks, sections


def test_each_program_of_the_page_is_run_by_a_test() -> None:
    assert sections() == {"Celery": 2, "RQ": 2, "arq": 2, "Dramatiq": 2, "Any other queue": 1}


def test_the_recipe_makes_a_child_of_the_first_attempt_and_a_linked_root_of_the_second() -> None:
    (program,) = blocks("Any other queue", "python")
    with testing.capture() as seen:
        exec(program, {})
    first, second = (span for span in seen.spans if span.name == "invoke_agent researcher")
    tool = seen.span("execute_tool delegate").context
    assert tool is not None
    assert first.parent is not None
    assert (first.parent.span_id, first.links) == (tool.span_id, ())
    assert (second.parent, [link.context.span_id for link in second.links]) == (None, [tool.span_id])
    assert (second.attributes or {})["agentbus.attempt"] == 2


def test_what_is_carried_is_as_long_as_the_page_says() -> None:
    with testing.capture(), agentbus.agent("planner", conversation_id="c-12345678") as run, run.tool("delegate"):
        carried: dict[str, Any] = dict(jobs.headers())
    assert set(carried) == {"traceparent", "agentbus"}
    assert len(carried["traceparent"]) == 55
    assert 150 < len(json.dumps(carried)) < 250


def test_the_versions_of_the_page_are_those_of_the_adapters() -> None:
    (versions,) = (line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| versions"))
    stated = [cell.strip() for cell in versions.split("|")[2:-1]]
    expected = [ADAPTERS[name] for name in ("celery", "rq", "arq", "dramatiq")]
    assert [short(cell) for cell in stated] == [(adapter.lowest, adapter.below) for adapter in expected]


def short(requirement: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """`>=2.6,<4` as two releases."""
    lowest, below = (part.lstrip("<>=").split(".") for part in requirement.split(","))
    return (int(lowest[0]), int([*lowest, "0"][1])), (int(below[0]), int([*below, "0"][1]))
