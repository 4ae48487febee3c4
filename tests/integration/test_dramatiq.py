"""Dramatiq with real workers and a real Redis: whose child a message's agent is, and that nothing is lost or leaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from dramatiq import broker as brokers
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, Retries, SkipMessage, default_middleware

import otel_agentbus as agentbus
from otel_agentbus import current, testing
from otel_agentbus.adapters import dramatiq as adapter
from otel_agentbus.testing import wait_until

from ..receivers import HttpReceiver, Reply, closed_port, in_a_process_of_its_own
from .backends import Collector, Jaeger
from .queued import Arrived, Place, arrived, enqueuer, environment, going_on, wait_for

ACTORS = "tests.integration.programs.dramatiq_actors"
WORKER = "invoke_agent researcher"


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    """A broker that sends messages to actors by their names, observed."""
    before = brokers.global_broker
    observing = adapter.instrument()
    made = RedisBroker(url=redis_url)  # type: ignore[no-untyped-call]
    yield made
    observing.off()
    made.close()
    brokers.global_broker = before


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as made:
        yield made


def worker(url: str, endpoint: str, *options: str, **more: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """The command line's worker; it is ended softly when it is left."""
    chosen = options or ("--processes=1", "--threads=1")
    return going_on(["-m", "dramatiq", ACTORS, *chosen], endpoint, DRAMATIQ_URL=url, **more)


def message(actor: str, *args: Any, **options: Any) -> dramatiq.Message[Any]:
    return dramatiq.Message("default", actor, args, {}, options)


def send(broker: RedisBroker, actor: str, *args: Any, **options: Any) -> None:
    broker.declare_queue("default")
    broker.enqueue(message(actor, *args, **options))


def wait_for_file(path: Path) -> None:
    assert wait_until(path.exists, 40.0), "the message is not processed"


def place(span: Arrived) -> tuple[str, str | None]:
    return span.place.trace_id, span.parent


def astuple(of: Place) -> tuple[str, str]:
    return of.trace_id, of.span_id


# -- whose child it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "processes"), [("broker first", "1"), ("broker first", "2"), ("connected first", "1"), ("by hand", "1")]
)
def test_a_messages_agent_is_a_child_of_the_tool_that_has_sent_the_message(
    order: str, processes: str, broker: RedisBroker, redis_url: str, receiver: HttpReceiver
) -> None:
    with enqueuer("one") as one:
        send(broker, "research", "sea")
    with enqueuer("two") as two:
        send(broker, "research", "sky")
    with worker(redis_url, receiver.url, f"--processes={processes}", "--threads=2", DRAMATIQ_ORDER=order):
        found = {span.attributes["topic"]: span for span in wait_for(receiver, WORKER, 2)}
    assert {topic: (place(span), span.links) for topic, span in found.items()} == {
        "sea": (astuple(one[0]), ()),
        "sky": (astuple(two[0]), ()),
    }


def test_a_message_that_is_sent_by_an_actor_is_a_grandchild(
    broker: RedisBroker, redis_url: str, receiver: HttpReceiver
) -> None:
    with enqueuer() as top:
        send(broker, "delegate", "sea")
    with worker(redis_url, receiver.url):
        wait_for(receiver, WORKER)
    (middle,), (tool,) = arrived(receiver, "invoke_agent middle"), arrived(receiver, "execute_tool delegate further")
    (leaf,) = arrived(receiver, WORKER)
    assert [place(span) for span in (middle, tool, leaf)] == [
        astuple(top[0]),
        astuple(middle.place),
        astuple(tool.place),
    ]


def test_all_messages_of_a_pipeline_are_children_of_the_tool_that_has_sent_it(
    broker: RedisBroker, redis_url: str, receiver: HttpReceiver
) -> None:
    broker.declare_queue("default")
    with enqueuer() as top:
        dramatiq.pipeline([message("research", "sea"), message("research_on", "edited")], broker=broker).run()  # type: ignore[no-untyped-call]
    with worker(redis_url, receiver.url):
        (editor,) = wait_for(receiver, "invoke_agent editor")
    assert (editor.attributes["got"], place(editor)) == ("words about sea", astuple(top[0]))
    assert [place(span) for span in arrived(receiver, WORKER)] == [astuple(top[0])]


def test_three_retries_are_roots_that_link_to_the_tool_that_has_sent_the_message(
    broker: RedisBroker, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    with enqueuer() as top:
        send(broker, "fail_until", str(tmp_path / "tried"), 3)
    with worker(redis_url, receiver.url):
        first, *retries = wait_for(receiver, WORKER, 4, timeout=60.0)
    assert (first.attempt, place(first), first.links) == (1, astuple(top[0]), ())
    assert [(span.attempt, span.parent, span.links) for span in retries] == [
        (attempt, None, (top[0],)) for attempt in (2, 3, 4)
    ]


def test_an_async_actors_agent_is_a_child_of_the_tool_that_has_sent_the_message(
    broker: RedisBroker, redis_url: str, receiver: HttpReceiver
) -> None:
    with enqueuer() as top:
        send(broker, "research_async", "sea")
    with worker(redis_url, receiver.url, DRAMATIQ_ASYNC="1"):
        (span,) = wait_for(receiver, WORKER)
    assert place(span) == astuple(top[0])


def test_a_delayed_message_is_still_a_child_of_the_tool_that_has_sent_it(
    broker: RedisBroker, redis_url: str, receiver: HttpReceiver
) -> None:
    broker.declare_queue("default")
    with enqueuer() as top:
        broker.enqueue(message("research", "sea"), delay=100)
    with worker(redis_url, receiver.url):
        (span,) = wait_for(receiver, WORKER)
    assert place(span) == astuple(top[0])


@pytest.mark.parametrize("garbage", [None, [7, "garbage"], {"agentbus": "garbage", "traceparent": ["x"]}])
def test_a_message_without_a_sender_or_with_garbage_is_processed_as_a_fresh_root(
    garbage: Any, broker: RedisBroker, redis_url: str, receiver: HttpReceiver
) -> None:
    send(broker, "research", "sea", **({} if garbage is None else {"agentbus": garbage}))
    with worker(redis_url, receiver.url):
        (span,) = wait_for(receiver, WORKER)
    assert (span.parent, span.links, span.attempt) == (None, (), 1)


# -- nothing stays behind, nothing is lost -----------------------------------------------------------------------------


def test_what_a_message_leaves_open_is_no_parent_of_the_next_one_in_its_thread(
    broker: RedisBroker, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with worker(redis_url, receiver.url):
        with enqueuer("one"):
            send(broker, "leak", str(told))
        wait_for_file(told)
        with enqueuer("two") as two:
            send(broker, "research", "sea")
        wait_for(receiver, WORKER)
        send(broker, "research", "sky")
        child, root = wait_for(receiver, WORKER, 2)
    assert child.attributes["thread"] == root.attributes["thread"]
    assert place(child) == astuple(two[0])
    assert (root.parent, root.links) == (None, ())


@pytest.mark.parametrize("how", ["softly", "at once"])
def test_a_worker_that_is_ended_right_after_a_message_loses_nothing(
    how: str, broker: RedisBroker, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with enqueuer() as top:
        send(broker, "last_words", str(told))
    with worker(redis_url, receiver.url, "--processes=2", "--threads=1", OTEL_BSP_SCHEDULE_DELAY="60000") as process:
        wait_for_file(told)
        process.send_signal(signal.SIGTERM if how == "softly" else signal.SIGHUP)
        if how == "at once":
            wait_for(receiver, WORKER)  # SIGHUP restarts the workers
        else:
            process.wait(30)
    assert [place(span) for span in arrived(receiver, WORKER)] == [astuple(top[0])]


@pytest.mark.parametrize("flushed", [True, False])
def test_a_process_that_is_killed_loses_what_it_had_not_flushed_and_with_flushes_nothing(
    flushed: bool, broker: RedisBroker, redis_url: str, receiver: HttpReceiver, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    flush = {"AGENTBUS_FLUSH_ON_ROOT_END": "1"} if flushed else {}
    with worker(redis_url, receiver.url, OTEL_BSP_SCHEDULE_DELAY="60000", **flush) as process:
        with enqueuer():
            send(broker, "die", str(told))
        wait_for_file(told)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)  # Dramatiq ends with its first worker that is killed; nearly always
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert [span.name for span in arrived(receiver)] == (["invoke_agent done before"] if flushed else [])


def test_a_dead_endpoint_changes_nothing_but_what_arrives(broker: RedisBroker, redis_url: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    send(broker, "last_words", str(told))
    with (
        closed_port() as port,
        worker(redis_url, f"http://127.0.0.1:{port}", AGENTBUS_FLUSH_ON_ROOT_END="1") as process,
    ):
        wait_for_file(told)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_an_endpoint_that_hangs_keeps_no_worker_from_its_end(
    broker: RedisBroker, redis_url: str, tmp_path: Path
) -> None:
    told, hang = tmp_path / "told", {"/v1/traces": Reply(hang=True)}
    send(broker, "last_words", str(told))
    with HttpReceiver(hang) as hanging, worker(redis_url, hanging.url, AGENTBUS_EXIT_TIMEOUT="1") as process:
        wait_for_file(told)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


SENDER = """
import json, os
import dramatiq
from dramatiq.brokers.redis import RedisBroker
import otel_agentbus as agentbus
from otel_agentbus.adapters import dramatiq as adapter

adapter.instrument()
broker = RedisBroker(url=os.environ["DRAMATIQ_URL"])
broker.declare_queue("default")
with agentbus.connect(), agentbus.agent("planner") as run, run.tool("delegate"):
    broker.enqueue(dramatiq.Message("default", "delegate", ("sea",), {}, {}))
    print(json.dumps(agentbus.inject({})["traceparent"].split("-")[1]))
"""


def test_jaeger_has_one_tree_of_the_sender_and_two_messages(
    redis_url: str, collector: Collector, jaeger: Jaeger
) -> None:
    variables = environment(collector.otlp_http_endpoint)
    sent = {name: text for name, text in variables.items() if name.startswith("OTEL_")}
    trace_id = in_a_process_of_its_own(SENDER, DRAMATIQ_URL=redis_url, **sent)
    with worker(redis_url, collector.otlp_http_endpoint):
        spans = jaeger.trace(trace_id, 5, timeout=90.0)
    names = {span.span_id: span.name for span in spans}
    assert {(span.name, names.get(span.parent_span_id or "")) for span in spans} == {
        ("invoke_agent planner", None),
        ("execute_tool delegate", "invoke_agent planner"),
        ("invoke_agent middle", "execute_tool delegate"),
        ("execute_tool delegate further", "invoke_agent middle"),
        (WORKER, "execute_tool delegate further"),
    }


# -- the middleware ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stub() -> Iterator[StubBroker]:
    before = brokers.global_broker
    brokers.set_broker(made := StubBroker())
    yield made
    made.close()
    brokers.global_broker = before


def ours(of: dramatiq.Broker) -> list[int]:
    """Where our middleware stands among a broker's."""
    return [number for number, each in enumerate(of.middleware) if isinstance(each, adapter.AgentBusMiddleware)]


def test_the_global_broker_and_those_made_later_are_observed_first_of_all_until_it_is_off(stub: StubBroker) -> None:
    usual = list(default_middleware)
    observing = adapter.instrument()
    later, chosen = StubBroker(), StubBroker(middleware=[Retries()])
    assert (ours(stub), ours(later), ours(chosen)) == ([0], [0], [])
    observing.off()
    observing.off()
    assert (ours(stub), default_middleware) == ([], usual)
    with enqueuer():
        later.declare_queue("default")
        sent = later.enqueue(message("research", "sea"))
    assert sent.options == {}
    assert ours(StubBroker()) == []


def test_without_a_broker_none_is_made() -> None:
    before, brokers.global_broker = brokers.global_broker, None
    try:
        adapter.instrument().off()
        assert brokers.global_broker is None
    finally:
        brokers.global_broker = before


def test_what_is_carried_is_plain_strings_beside_options_that_stay(stub: StubBroker) -> None:
    stub.add_middleware(adapter.AgentBusMiddleware())
    stub.declare_queue("default")
    with enqueuer():
        run = current()
        assert run is not None
        sent = stub.enqueue(message("research", "sea", mine="stays"))
        carried = sent.options["agentbus"]
    with enqueuer("another"):
        again = stub.enqueue(sent)
    assert set(sent.options) == {"mine", "agentbus"}
    assert set(carried) == {"traceparent", "agentbus"}
    assert {type(text) for text in carried.values()} == {str}
    assert carried["agentbus"].split(";")[1] == run.id
    assert json.loads(sent.encode())["options"] == sent.options
    assert again.options["agentbus"] == carried


class Skip(Middleware):
    """Skips what is called so, and looks what is current after the rest."""

    def __init__(self) -> None:
        self.current_after: list[object] = []

    def after_process_message(self, *_: Any, **__: Any) -> None:
        self.current_after.append(current())

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        if message.kwargs.get("skip"):
            raise SkipMessage


@pytest.mark.parametrize("first", [True, False])
def test_messages_that_are_skipped_and_middleware_that_is_there_twice_leave_nothing_behind(
    first: bool, stub: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip = Skip()
    kinds: list[Middleware] = [adapter.AgentBusMiddleware(), skip, adapter.AgentBusMiddleware()]
    for each in kinds if first else kinds[1:]:
        stub.add_middleware(each)
    roots: list[str | None] = []

    @dramatiq.actor(broker=stub)
    def research(skip: bool = False) -> None:
        with agentbus.agent("researcher") as run:
            roots.append(run.invocation.root_id)

    running = dramatiq.Worker(stub, worker_timeout=50, worker_threads=1)
    running.start()
    try:
        with testing.capture(exit_timeout=1.5) as seen:
            for name in ("one", "two"):
                with agentbus.agent(name, invocation_id=name):
                    research.send(skip=True)
                    research.send()
            stub.join("default")
            running.join()
            flushed: list[float] = []
            with monkeypatch.context() as patch:
                patch.setattr(seen.bus, "flush", flushed.append)
                running.stop()
    finally:
        running.stop()
    assert set(flushed) == {1.5}
    assert roots == ["one", "two"]
    assert skip.current_after == [None, None]
    assert adapter._begun == {}
