"""Celery with real workers and a real Redis: whose child a task's agent is, and that no process takes spans with it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celery  # type: ignore[import-untyped, unused-ignore]
import pytest
from celery import signals
from celery.result import AsyncResult  # type: ignore[import-untyped, unused-ignore]
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_agentbus as agentbus
from otel_agentbus import current, testing
from otel_agentbus.adapters import celery as adapter
from otel_agentbus.testing import wait_until

from ..receivers import HttpReceiver, Reply, closed_port, in_a_process_of_its_own
from .backends import Collector, Jaeger
from .queued import Arrived, Place, arrived, enqueuer, environment, going_on, place_of, wait_for

TASKS = "tests.integration.programs.celery_tasks"
POOLS = {
    "prefork": ("--pool=prefork", "--concurrency=2"),
    "threads": ("--pool=threads", "--concurrency=2"),
    "solo": ("--pool=solo",),
}
ONE = ("--pool=prefork", "--concurrency=1")
SPARE = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=warning")
WORKER = "invoke_agent researcher"
#: Where Celery is told to end before its main process has read a result, a child waits half a minute for that: also
#: without us. So it is given the time to read, and to end if that was not enough.
READ_S, PATIENCE_S = 0.3, 75.0


@pytest.fixture
def client(redis_url: str) -> Iterator[celery.Celery]:
    """An application that sends tasks by their names, observed."""
    app = celery.Celery("client", broker=redis_url, backend=redis_url, set_as_current=False)
    # Results are asked for. A subscription would outlive the server, and end where a result is collected as garbage,
    # be that in the middle of another command of the same connection: which then waits for ever.
    app.backend.on_task_call = lambda *_: None
    app.backend.add_pending_result = lambda result, **_: result
    observing = adapter.instrument()
    yield app
    observing.off()
    app.close()
    app.backend.client.connection_pool.disconnect()


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as made:
        yield made


@contextmanager
def worker(url: str, endpoint: str, *options: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker; it is ended softly when it is left."""
    command = ["-m", "celery", "-A", TASKS, "worker", *SPARE, *(options or ONE)]
    with going_on(command, endpoint, PATIENCE_S, CELERY_URL=url, **more) as process:
        yield process
        time.sleep(READ_S)


def send(client: celery.Celery, task: str, *args: Any, **options: Any) -> AsyncResult:
    return client.send_task(f"{TASKS}.{task}", args, **options)


def signature(client: celery.Celery, task: str, *args: Any) -> celery.Signature:
    return client.signature(f"{TASKS}.{task}", args)


def get(result: AsyncResult, timeout: float = 40.0) -> Any:
    assert wait_until(result.ready, timeout), "the task does not end"
    if result.failed():
        raise result.result
    return result.result


def wait_for_file(path: Path) -> None:
    assert wait_until(path.exists, 40.0), "the task does not begin"


# -- whose child it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_a_tasks_agent_is_a_child_of_the_tool_that_has_sent_the_task(
    pool: str, client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    with enqueuer("one") as one:
        first = send(client, "research", "sea")
    with enqueuer("two") as two:
        second = send(client, "research", "sky")
    with worker(redis_url, receiver.url, *POOLS[pool]):
        assert (get(first), get(second)) == ("words about sea", "words about sky")
    found = {span.attributes["topic"]: span for span in wait_for(receiver, WORKER, 2)}
    assert {topic: (span.place.trace_id, span.parent, span.links) for topic, span in found.items()} == {
        "sea": (one[0].trace_id, one[0].span_id, ()),
        "sky": (two[0].trace_id, two[0].span_id, ()),
    }
    calls = {span.parent for span in arrived(receiver, "chat gpt-5-mini")}
    assert calls == {span.place.span_id for span in found.values()}


def test_a_task_that_is_sent_from_a_task_is_a_grandchild(
    client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    with enqueuer() as place:
        send(client, "delegate", "sea")
        called = send(client, "call_in_place", "sky")
    with worker(redis_url, receiver.url):
        get(called)
        wait_for(receiver, WORKER, 2)
        wait_for(receiver, "invoke_agent middle", 2)
    middle = {span.place.span_id for span in arrived(receiver, "invoke_agent middle")}
    (tool,) = arrived(receiver, "execute_tool delegate further")
    by_topic = {span.attributes["topic"]: span for span in arrived(receiver, WORKER)}
    assert by_topic["sea"].parent == tool.place.span_id
    assert tool.parent in middle
    assert by_topic["sky"].parent in middle - {tool.parent}  # a call in place is a child of who calls
    assert {span.place.trace_id for span in arrived(receiver)} == {place[0].trace_id}


@pytest.mark.parametrize("shape", ["chain", "group", "chord"])
def test_all_tasks_of_a_canvas_are_children_of_the_tool_that_has_sent_it(
    shape: str, client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    one, two = signature(client, "research", "sea"), signature(client, "research", "sky")
    onward = signature(client, "research_on", "edited")
    canvas = {
        "chain": one | onward | onward,
        "group": celery.group(one, two),
        "chord": celery.chord([one, two], onward),
    }
    with enqueuer() as place:
        result = canvas[shape].apply_async()
    with worker(redis_url, receiver.url, *POOLS["prefork"]):
        assert wait_until(result.ready, 40.0)
    count = {"chain": 3, "group": 2, "chord": 3}[shape]
    wait_until(lambda: len(agents(receiver)) == count, 20.0)
    assert [(span.place.trace_id, span.parent) for span in agents(receiver)] == [astuple(place[0])] * count


def agents(receiver: HttpReceiver) -> list[Arrived]:
    return [span for span in arrived(receiver) if span.name.startswith("invoke_agent")]


@pytest.mark.parametrize("protocol", ["1", "2"])
def test_three_retries_are_roots_that_link_to_the_tool_that_has_sent_the_task(
    protocol: str, client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    client.conf.task_protocol = int(protocol)
    with enqueuer() as place:
        result = send(client, "fail_three_times")
    with worker(redis_url, receiver.url, CELERY_PROTOCOL=protocol):
        assert get(result) == 3
    first, *retries = wait_for(receiver, WORKER, 4)
    assert (first.attempt, first.place.trace_id, first.parent, first.links) == (1, *astuple(place[0]), ())
    assert [(span.attempt, span.parent, span.links) for span in retries] == [
        (attempt, None, (place[0],)) for attempt in (2, 3, 4)
    ]
    assert len({span.place.trace_id for span in (first, *retries)}) == 4


def astuple(place: Place) -> tuple[str, str]:
    return place.trace_id, place.span_id


def test_a_retry_by_an_exception_is_linked_too(
    client: celery.Celery, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    with enqueuer() as place:
        result = send(client, "fail_once_by_itself", str(tmp_path / "failed"))
    with worker(redis_url, receiver.url):
        assert get(result) == "done"
    _, retry = wait_for(receiver, WORKER, 2)
    assert (retry.attempt, retry.parent, retry.links) == (2, None, (place[0],))


def test_what_comes_after_a_retried_task_in_a_chain_is_still_a_child_of_the_sender(
    client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    with enqueuer() as place:
        result = (signature(client, "retried_in_a_chain") | signature(client, "research_on", "edited")).apply_async()
    with worker(redis_url, receiver.url):
        get(result)
    (editor,) = wait_for(receiver, "invoke_agent editor")
    assert (editor.place.trace_id, editor.parent) == astuple(place[0])


def test_a_task_that_was_sent_outside_of_any_run_is_a_fresh_root(
    client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    result = send(client, "research", "sea")
    with worker(redis_url, receiver.url):
        get(result)
    (span,) = wait_for(receiver, WORKER)
    assert (span.parent, span.links, span.attempt) == (None, (), 1)


@pytest.mark.parametrize(
    "garbage",
    [
        {"agentbus": "garbage", "traceparent": "garbage"},
        {"agentbus": ["1;", 7], "traceparent": {"a": "b"}},
    ],
)
def test_a_task_with_garbage_in_its_headers_runs_as_a_fresh_root(
    garbage: dict[str, Any], client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    result = send(client, "research", "sea", headers=garbage)
    with worker(redis_url, receiver.url):
        assert get(result) == "words about sea"
    (span,) = wait_for(receiver, WORKER)
    assert (span.parent, span.links) == (None, ())


def test_an_agent_that_fails_fails_its_task_and_nothing_else(
    client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    with enqueuer() as place:
        result = send(client, "fails")
    with worker(redis_url, receiver.url), pytest.raises(ValueError, match="it is so"):
        get(result)
    (span,) = wait_for(receiver, WORKER)
    assert (span.parent, span.attributes["error.type"]) == (place[0].span_id, "ValueError")


# -- nothing stays behind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_a_task_leaves_open_is_no_parent_of_the_next_one_in_its_process(
    pool: str, client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    with worker(redis_url, receiver.url, *(POOLS[pool] if pool == "solo" else (f"--pool={pool}", "--concurrency=1"))):
        with enqueuer("one"):
            pid = get(send(client, "leak"))
        with enqueuer("two") as two:
            again = get(send(client, "where"))
        alone = get(send(client, "where"))
    assert pid == again == alone
    child, root = wait_for(receiver, WORKER, 2)
    assert (child.place.trace_id, child.parent) == astuple(two[0])
    assert (root.parent, root.links) == (None, ())


# -- nothing is lost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "pool"),  # with the solo pool, Celery itself does not survive a cold shutdown while a task runs
    [
        *((signal.SIGTERM, pool) for pool in POOLS),
        *((signal.SIGQUIT, pool) for pool in ("prefork", "threads")),
    ],
)
def test_a_worker_that_is_ended_right_after_a_task_loses_nothing(
    number: signal.Signals, pool: str, client: celery.Celery, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with enqueuer() as place:
        send(client, "last_words", str(told))
    with worker(redis_url, receiver.url, *POOLS[pool], OTEL_BSP_SCHEDULE_DELAY="60000") as process:
        wait_for_file(told)
        process.send_signal(number)
        process.wait(PATIENCE_S)
    (span,) = arrived(receiver, WORKER)
    assert span.parent == place[0].span_id


def test_a_task_that_a_cold_shutdown_ends_is_told_with_what_was_done_before(
    client: celery.Celery, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    send(client, "hang", str(told))
    with worker(redis_url, receiver.url, OTEL_BSP_SCHEDULE_DELAY="60000") as process:
        wait_for_file(told)
        process.send_signal(signal.SIGQUIT)
        process.wait(PATIENCE_S)
    assert {span.name for span in arrived(receiver)} == {"invoke_agent done before", "invoke_agent hanging"}


def test_processes_that_end_after_every_task_lose_nothing(
    client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    with worker(redis_url, receiver.url, *POOLS["prefork"], "--max-tasks-per-child=1", OTEL_BSP_SCHEDULE_DELAY="60000"):
        with enqueuer() as place:
            results = [send(client, "where") for _ in range(4)]
        processes = {get(result) for result in results}
    assert len(processes) == 4
    assert [span.parent for span in arrived(receiver, WORKER)] == [place[0].span_id] * 4


@pytest.mark.parametrize("flushed", [True, False])
def test_a_process_that_is_killed_loses_what_it_had_not_flushed_and_with_flushes_nothing(
    flushed: bool, client: celery.Celery, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    flush = {"AGENTBUS_FLUSH_ON_ROOT_END": "1"} if flushed else {}
    with worker(redis_url, receiver.url, *ONE, OTEL_BSP_SCHEDULE_DELAY="60000", **flush):
        with enqueuer():
            before = get(send(client, "where"))
            send(client, "die", str(told))
        wait_for_file(told)
        after = get(send(client, "where"))
    assert after != before
    names = {True: ["researcher", "done before", "researcher"], False: ["researcher"]}
    assert [span.name for span in arrived(receiver)] == [f"invoke_agent {name}" for name in names[flushed]]


def test_a_dead_endpoint_changes_nothing_but_what_arrives(
    client: celery.Celery, redis_url: str, tmp_path: Path
) -> None:
    flush = {"AGENTBUS_FLUSH_ON_ROOT_END": "1", "XDG_STATE_HOME": str(tmp_path)}
    with closed_port() as port, worker(redis_url, f"http://127.0.0.1:{port}", **flush) as process:
        assert get(send(client, "research", "sea")) == "words about sea"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_an_endpoint_that_hangs_keeps_no_worker_from_its_end(client: celery.Celery, redis_url: str) -> None:
    hang = {"/v1/traces": Reply(hang=True)}
    with HttpReceiver(hang) as hanging, worker(redis_url, hanging.url, AGENTBUS_EXIT_TIMEOUT="1") as process:
        assert get(send(client, "research", "sea")) == "words about sea"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


# -- what is sent ------------------------------------------------------------------------------------------------------


@pytest.fixture
def published() -> Iterator[list[dict[str, Any]]]:
    """The headers of every message that is sent, after all who write into them."""
    headers: list[dict[str, Any]] = []

    def keep(headers_: Any = None, **named: Any) -> None:
        headers.append(dict(named["headers"]))

    signals.after_task_publish.connect(keep, weak=False)
    yield headers
    signals.after_task_publish.disconnect(keep)


@pytest.mark.parametrize("protocol", [1, 2])
def test_what_is_carried_is_plain_strings_beside_headers_that_stay(
    protocol: int, client: celery.Celery, published: list[dict[str, Any]]
) -> None:
    client.conf.task_protocol = protocol
    mine = {"mine": "stays", "tracestate": "mine=1"}
    send(client, "where", headers=mine)
    with enqueuer():
        send(client, "where", headers=mine)
        run = current()
        assert run is not None
    before, after = published
    added = {name: after[name] for name in after.keys() - before.keys()}
    assert set(added) == {"traceparent", "agentbus"}
    assert {type(text) for text in added.values()} == {str}
    assert added["agentbus"].split(";")[1:3] == [run.id, run.root_id]
    assert {name: after[name] for name in mine} == mine
    assert json.loads(json.dumps(added)) == added
    assert mine == {"mine": "stays", "tracestate": "mine=1"}


def test_nothing_is_carried_once_it_is_switched_off(client: celery.Celery, published: list[dict[str, Any]]) -> None:
    kinds = (signals.before_task_publish, signals.task_prerun, signals.task_postrun, signals.worker_process_init)
    adapter.instrument().off()
    assert [len(kind.receivers) for kind in kinds] == [0, 0, 0, 0]
    with enqueuer():
        send(client, "where")
    assert "agentbus" not in published[0]


def test_a_worker_that_has_finished_flushes_and_a_process_of_its_pool_has_nothing_of_its_parent_and_closes(
    client: celery.Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    with testing.capture(exit_timeout=1.5) as seen:
        called: list[tuple[str, tuple[float, ...]]] = []
        with monkeypatch.context() as patch:
            patch.setattr(seen.bus, "flush", lambda *timeout: called.append(("flush", timeout)))
            patch.setattr(seen.bus, "close", lambda *timeout: called.append(("close", timeout)))
            signals.worker_shutdown.send(sender=None)
            signals.worker_process_shutdown.send(sender=None)
        agentbus.Invocation.root(agent="the parent's").push()
        signals.worker_process_init.send(sender=None)
        assert current() is None
    assert called == [("flush", (1.5,)), ("close", ())]


def test_eager_tasks_are_plain_children(client: celery.Celery) -> None:
    client.conf.task_always_eager = True

    @client.task(bind=True, max_retries=1)  # type: ignore[untyped-decorator, unused-ignore]
    def eager(self: Any) -> str:
        with agentbus.agent("researcher"):
            if not self.request.retries:
                raise self.retry(countdown=0)
        return "done"

    with testing.capture() as seen, agentbus.agent("planner") as planner, planner.tool("delegate"):
        assert eager.delay().get() == "done"
        assert current() == planner.invocation
    tool = place_of(seen.span("execute_tool delegate")).span_id
    found = [span for span in seen.spans if span.name == WORKER]
    parents = [f"{span.parent.span_id:016x}" for span in found if span.parent is not None]
    assert parents == [tool, tool]


# -- beside OpenTelemetry's own instrumentation of Celery --------------------------------------------------------------


@pytest.mark.parametrize("pool", ["solo", "prefork"])
@pytest.mark.parametrize("order", ["theirs first", "ours first"])
def test_the_queues_own_spans_and_ours_are_in_one_trace_and_nothing_stays_current(
    order: str, pool: str, client: celery.Celery, redis_url: str, receiver: HttpReceiver
) -> None:
    theirs = CeleryInstrumentor()  # type: ignore[no-untyped-call, unused-ignore]
    sent, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(sent))
    with worker(redis_url, receiver.url, *(POOLS if pool == "solo" else {"prefork": ONE})[pool], CELERY_ALSO=order):
        theirs.instrument(tracer_provider=provider)
        observing = adapter.instrument()  # the second one: where ours come first, they were there before
        try:
            with enqueuer() as place:
                result = send(client, "fail_three_times")
        finally:
            theirs.uninstrument()
            observing.off()
        assert get(result) == 3
        alone = send(client, "where")
        get(alone)
    (producer,) = (place_of(span) for span in sent.get_finished_spans())
    first, *retries, root = wait_for(receiver, WORKER, 5)
    assert producer.trace_id == place[0].trace_id
    assert (first.place.trace_id, first.parent) == astuple(place[0])
    runs = {span.place.span_id: span for span in arrived(receiver) if span.name.startswith("run/")}
    assert len(runs) == 5
    assert {span.place.trace_id for span in retries} == {place[0].trace_id}  # the queue's own trace goes on
    for retry in retries:
        assert retry.links == (Place(place[0].trace_id, retry.links[0].span_id),)
        assert retry.parent in runs
    assert root.parent in runs
    assert root.place.trace_id != place[0].trace_id
    assert runs[str(root.parent)].parent is None


# -- in a real backend -------------------------------------------------------------------------------------------------


SENDER = f"""
import json, os
import celery
import otel_agentbus as agentbus
from otel_agentbus.adapters import celery as adapter

adapter.instrument()
client = celery.Celery(broker=os.environ["CELERY_URL"])
with agentbus.connect(), agentbus.agent("planner") as run, run.tool("delegate"):
    client.send_task("{TASKS}.delegate", ("sea",))
    print(json.dumps(agentbus.inject({{}})["traceparent"].split("-")[1]))
"""


def test_jaeger_has_one_tree_of_the_sender_and_two_tasks(redis_url: str, collector: Collector, jaeger: Jaeger) -> None:
    variables = environment(collector.otlp_http_endpoint)
    sent = {name: text for name, text in variables.items() if name.startswith("OTEL_")}
    trace_id = in_a_process_of_its_own(SENDER, CELERY_URL=redis_url, **sent)
    with worker(redis_url, collector.otlp_http_endpoint, *POOLS["prefork"]):
        spans = jaeger.trace(trace_id, 6, timeout=90.0)
    names = {span.span_id: span.name for span in spans}
    assert {(span.name, names.get(span.parent_span_id or "")) for span in spans} == {
        ("invoke_agent planner", None),
        ("execute_tool delegate", "invoke_agent planner"),
        ("invoke_agent middle", "execute_tool delegate"),
        ("execute_tool delegate further", "invoke_agent middle"),
        (WORKER, "execute_tool delegate further"),
        ("chat gpt-5-mini", WORKER),
    }
