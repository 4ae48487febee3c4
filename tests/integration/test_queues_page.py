"""The programs of the page about job queues, run as they stand there: one asks, the worker does, in one trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..queues_page import blocks
from ..receivers import HttpReceiver
from .queued import ROOT, arrived, going_on, run_to_end, wait_for

#: What each queue's command is in Python, and what makes its worker small.
COMMANDS = {
    "celery": (["-m", "celery"], ["--concurrency", "1"]),
    "rq": (["-m", "rq.cli"], []),
    "arq": (["-m", "arq"], []),
    "dramatiq": (["-m", "dramatiq"], ["--processes", "1", "--threads", "1"]),
}
WORKERS = [
    (section, line) for section in ("Celery", "RQ", "arq", "Dramatiq") for line in blocks(section, "sh")[0].splitlines()
]


@pytest.mark.parametrize(("section", "worker"), WORKERS)
def test_the_programs_of_a_section_make_one_trace(section: str, worker: str, redis_url: str, tmp_path: Path) -> None:
    name, *arguments = worker.replace("redis://localhost:6379/0", redis_url).split()
    for program in blocks(section, "python"):
        file = program.splitlines()[0].removeprefix("# ")
        (tmp_path / file).write_text(program.replace("redis://localhost:6379/0", redis_url), "utf-8")
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    module, small = COMMANDS[name]
    with HttpReceiver() as receiver:
        run_to_end([str(tmp_path / "ask.py")], receiver.url, 60.0, PYTHONPATH=path)
        with going_on([*module, *arguments, *small], receiver.url, PYTHONPATH=path, OTEL_BSP_SCHEDULE_DELAY="100"):
            (agent,) = wait_for(receiver, "invoke_agent researcher")
        (tool,) = arrived(receiver, "execute_tool delegate")
    assert (agent.place.trace_id, agent.parent, agent.links) == (tool.place.trace_id, tool.place.span_id, ())
