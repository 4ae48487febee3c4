"""Runs that go on in processes of their own: whose child they are, and that nothing of them is lost or told twice."""

from __future__ import annotations

import json
import os
import pickle
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import Invocation, carry, current
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, parents
from .receivers import HttpReceiver
from .test_fork import ROOT, run, said, spans_at

#: What the workers of the programs below do; in a module, because spawned ones import it.
JOBS = """
import os
import sys
import threading

import anyio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import otel_agentbus as agentbus


def job(name, leave=None):
    bus = agentbus.connect()
    with agentbus.agent(name) as run, run.llm(f"{name} model") as call:
        call.record(input_tokens=1)
    if leave == "close":
        assert bus.close()
    elif leave == "flush, then die":
        os._exit(not bus.flush(60))
    elif leave == "sys.exit":
        sys.exit(0)
    elif leave == "raise":
        sys.stderr = open(os.devnull, "w")
        raise ValueError("in the worker")
    elif leave == "flush":
        assert bus.flush(60)
    return run.invocation.path


def pass_on(name, function, method):
    agentbus.connect()
    with agentbus.agent(name), agentbus.tool(f"{name} tool"):
        for given, name in [(agentbus.carry(job), f"{name} again"), (function, f"{name} handed on")]:
            assert started(multiprocessing.get_context(method), given, name) == 0


def started(context, function, *arguments):
    worker = context.Process(target=function, args=arguments)
    worker.start()
    worker.join(60)
    assert worker.exitcode is not None, "it hangs"
    return worker.exitcode
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a program that has these jobs; gives all spans that arrived, by their names, each of which is there once."""
    (tmp_path / "jobs.py").write_text(JOBS)

    def spans_of(code: str, **environment: str) -> dict[str, Any]:
        (tmp_path / "program.py").write_text("from jobs import *\n" + textwrap.dedent(code))
        start = "import runpy; runpy.run_module('program', run_name='__main__', alter_sys=True)"
        with HttpReceiver() as receiver:
            path = os.pathsep.join([str(ROOT), str(tmp_path)])
            run(start, receiver, PYTHONPATH=path, AGENTBUS_EXIT_TIMEOUT="30", **environment)  # however busy the machine
            found = spans_at(receiver)
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}

    return spans_of


def above(spans: dict[str, Any]) -> dict[str, str | None]:
    """Every span's parent by name; one that is not there is an error."""
    names = {span.span_id: name for name, span in spans.items()}
    return {name: names[span.parent_span_id] if span.parent_span_id else None for name, span in spans.items()}


def of_workers(names: list[str], parent: str | None) -> dict[str, str | None]:
    return {
        **{f"invoke_agent {name}": parent for name in names},
        **{f"chat {name} model": f"invoke_agent {name}" for name in names},
    }


DELEGATE = {"invoke_agent planner": None, "execute_tool delegate": "invoke_agent planner"}
METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
def test_runs_in_processes_and_their_pools_are_below_the_call_that_sent_them(jobs: Any, method: str) -> None:
    spans = jobs(f"""
        if __name__ == "__main__":
            agentbus.connect()
            context = multiprocessing.get_context({method!r})
            with agentbus.agent("planner") as run, run.tool("delegate"):
                assert started(context, agentbus.carry(job), "process") == 0
                with context.Pool(2) as pool:
                    found = pool.map(agentbus.carry(job), ["pool 0", "pool 1"])
                    pool.close()
                    pool.join()
                with ProcessPoolExecutor(2, context) as executor:
                    bound = agentbus.carry(job)
                    found += [f.result() for f in [executor.submit(bound, f"executor {{n}}") for n in range(3)]]
                    found += executor.map(agentbus.carry(job), ["mapped"])
            assert [path[0] for path in found] == ["planner"] * 6, found
    """)
    names = ["process", "pool 0", "pool 1", "executor 0", "executor 1", "executor 2", "mapped"]
    assert above(spans) == {**DELEGATE, **of_workers(names, "execute_tool delegate")}
    assert len({span.trace_id for span in spans.values()}) == 1
    assert {said(span, "agentbus.outcome") for span in spans.values()} == {"ok"}


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_nothing_was_given_is_below_the_run_only_where_it_is_its_copy(jobs: Any, method: str) -> None:
    spans = jobs(f"""
        if __name__ == "__main__":
            agentbus.connect()
            with agentbus.agent("planner") as run, run.tool("delegate"):
                assert started(multiprocessing.get_context({method!r}), job, "worker") == 0
    """)
    assert above(spans) == {**DELEGATE, **of_workers(["worker"], "execute_tool delegate" if method == "fork" else None)}


@pytest.mark.parametrize("method", METHODS)
def test_what_was_bound_counts_not_what_is_current_where_the_process_starts(jobs: Any, method: str) -> None:
    spans = jobs(f"""
        if __name__ == "__main__":
            agentbus.connect()
            context = multiprocessing.get_context({method!r})
            unbound = agentbus.carry(job)
            with agentbus.agent("planner") as run, run.tool("delegate"):
                bound = agentbus.carry(job)
            with agentbus.agent("another"):
                assert started(context, bound, "bound") == 0
                assert started(context, unbound, "of nobody") == 0
    """)
    assert above(spans) == {
        **DELEGATE,
        "invoke_agent another": None,
        **of_workers(["bound"], "execute_tool delegate"),
        **of_workers(["of nobody"], None),
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_process_carries_on_to_others_and_hands_on_what_it_was_given(jobs: Any, method: str) -> None:
    spans = jobs(f"""
        if __name__ == "__main__":
            agentbus.connect()
            with agentbus.agent("planner") as run, run.tool("delegate"):
                given = agentbus.carry(job), {method!r}
                assert started(multiprocessing.get_context({method!r}), agentbus.carry(pass_on), "middle", *given) == 0
    """)
    assert above(spans) == {
        **DELEGATE,
        "invoke_agent middle": "execute_tool delegate",
        "execute_tool middle tool": "invoke_agent middle",
        **of_workers(["middle again"], "execute_tool middle tool"),
        **of_workers(["middle handed on"], "execute_tool delegate"),
    }


@pytest.mark.parametrize("method", METHODS)
def test_however_a_process_leaves_nothing_of_it_is_lost_and_its_callers_run_goes_on(jobs: Any, method: str) -> None:
    ways = {"return": 0, "close": 0, "flush, then die": 0, "sys.exit": 0, "raise": 1}
    spans = jobs(f"""
        if __name__ == "__main__":
            agentbus.connect()
            context = multiprocessing.get_context({method!r})
            with agentbus.agent("planner") as run, run.tool("delegate"):
                for way, code in {ways!r}.items():
                    assert started(context, agentbus.carry(job), way, way) == code
                with run.llm("afterwards"):
                    pass
    """)
    assert above(spans) == {
        **DELEGATE,
        **of_workers(list(ways), "execute_tool delegate"),
        "chat afterwards": "execute_tool delegate",
    }
    assert {said(span, "agentbus.outcome") for span in spans.values()} == {"ok"}


def test_a_child_that_is_forked_in_a_thread_is_below_the_run_that_the_thread_works_for(jobs: Any) -> None:
    spans = jobs("""
        if __name__ == "__main__":
            agentbus.connect()
            context = multiprocessing.get_context("fork")
            with agentbus.agent("planner") as run, run.tool("delegate"):
                bound = agentbus.carry(started)
            for function, name in [(bound, "of the run"), (started, "of nobody")]:
                thread = threading.Thread(target=function, args=(context, job, name))
                thread.start()
                thread.join()
    """)
    assert above(spans) == {
        **DELEGATE,
        **of_workers(["of the run"], "execute_tool delegate"),
        **of_workers(["of nobody"], None),
    }


def test_an_event_loop_sends_runs_to_other_processes(jobs: Any) -> None:
    """Of asyncio and of trio, whose workers anyio ends without a word: what they did must be flushed."""
    spans = jobs("""
        import asyncio

        async def main(name):
            async with agentbus.agent("planner" + name) as run, run.tool("delegate" + name):
                if not name:
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
                        loop = asyncio.get_running_loop()
                        await loop.run_in_executor(executor, agentbus.carry(job), "executor")
                await anyio.to_process.run_sync(agentbus.carry(job), "anyio" + name, "flush")

        if __name__ == "__main__":
            agentbus.connect()
            anyio.run(main, "")
            anyio.run(main, " of trio", backend="trio")
    """)
    assert above(spans) == {
        **DELEGATE,
        **of_workers(["executor", "anyio"], "execute_tool delegate"),
        "invoke_agent planner of trio": None,
        "execute_tool delegate of trio": "invoke_agent planner of trio",
        **of_workers(["anyio of trio"], "execute_tool delegate of trio"),
    }


@pytest.mark.parametrize(
    ("of_the_sender", "of_the_worker", "told"),
    [("always_off", "parentbased_always_on", False), ("always_on", "parentbased_always_off", True)],
)
def test_the_senders_sampling_decision_holds_in_the_worker(
    jobs: Any, of_the_sender: str, of_the_worker: str, told: bool
) -> None:
    spans = jobs(
        f"""
        if __name__ == "__main__":
            agentbus.connect()
            os.environ["OTEL_TRACES_SAMPLER"] = {of_the_worker!r}
            with agentbus.agent("planner"):
                started(multiprocessing.get_context("spawn"), agentbus.carry(job), "worker")
        """,
        OTEL_TRACES_SAMPLER=of_the_sender,
    )
    wanted = {"invoke_agent planner": None, **of_workers(["worker"], "invoke_agent planner")}
    assert above(spans) == (wanted if told else {})


# -- what is pickled ---------------------------------------------------------------------------------------------------


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)


def sub_agent(name: str = "researcher") -> str:
    """What a test sends."""
    with agentbus.agent(name) as run:
        return run.id


def sent(function: Any) -> Any:
    return pickle.loads(pickle.dumps(function))


def test_a_carried_function_that_was_pickled_belongs_to_the_run_where_it_was_bound(seen: Captured) -> None:
    with agentbus.agent("planner") as run, run.tool("delegate"):
        bound = carry(sub_agent)
        early = sent(bound)
    late, twice = sent(bound), sent(early)
    for name, function in {"bound": bound, "early": early, "late": late, "twice": twice}.items():
        with agentbus.agent(f"caller of {name}"):
            function(name)
    assert current() is None
    found = parents(seen)
    assert [found[name] for name in ("bound", "early", "late", "twice")] == ["delegate"] * 4
    assert len({span.context.trace_id for span in seen.spans if span.context and "caller" not in span.name}) == 1


def test_what_is_carried_looks_like_the_function(seen: Captured) -> None:
    bound: Any = carry(sub_agent)
    for function in (bound, sent(bound), sent(sent(bound))):
        assert (function.__name__, function.__doc__) == ("sub_agent", "What a test sends.")
        assert function.__wrapped__ is sub_agent


def test_without_a_run_a_pickled_function_starts_fresh_roots(seen: Captured) -> None:
    bound = sent(carry(sub_agent))
    with agentbus.agent("caller"):
        bound()
    assert parents(seen) == {"caller": None, "researcher": None}


def test_without_a_bus_the_lineage_travels_all_the_same() -> None:
    with agentbus.agent("planner", invocation_id="r"):
        bound = sent(carry(ids))
    assert bound() == ("r", "r", ("planner", "inner"))


def ids() -> tuple[str | None, str, tuple[str, ...]]:
    with agentbus.agent("inner") as run:
        return run.invocation.parent_id, run.invocation.root_id, run.invocation.path


class Team:
    """An object whose method is sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._function = self._carrier = self._context = "its own"

    def work(self) -> str:
        with agentbus.agent(self.name):
            return self.name

    def __call__(self) -> str:
        return self.work() + self._function


def test_methods_and_callable_objects_are_carried_too(seen: Captured) -> None:
    with agentbus.agent("planner"):
        method, thing = carry(Team("method").work), carry(Team("object"))
    assert [sent(method)(), thing(), sent(thing)()] == ["method", "objectits own", "objectits own"]
    assert {parents(seen)[name] for name in ("method", "object")} == {"planner"}


def test_a_carried_function_in_a_class_is_a_method(seen: Captured) -> None:
    with agentbus.agent("planner"):

        class Bound(Team):
            work = carry(Team.work)

    assert Bound("its own name").work() == "its own name"
    assert parents(seen)["its own name"] == "planner"


def test_what_cannot_be_pickled_says_so_and_still_runs_in_threads(seen: Captured) -> None:
    with agentbus.agent("planner"):
        bound = carry(lambda: sub_agent("by a lambda"))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(bound)
    thread = threading.Thread(target=bound)
    thread.start()
    thread.join()
    assert parents(seen)["by a lambda"] == "planner"


def test_a_pickled_function_takes_along_what_inject_writes(seen: Captured) -> None:
    with Invocation.root("r", agent="planner").use():
        wanted = agentbus.inject()
        bound: Any = carry(sub_agent)
    _, (function, carrier) = bound.__reduce__()
    assert (function, carrier) == (sub_agent, wanted)
    assert json.loads(json.dumps(carrier)) == carrier
