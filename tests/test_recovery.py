"""What a process that is gone has left is sent: once, and byte for byte what the process itself would have sent."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from pydantic import SecretBytes

import otel_agentbus as agentbus
from otel_agentbus import Settings
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    DeploymentFailed,
    DeploymentStarted,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    RecoveryCompleted,
    ToolCall,
    ToolCallStart,
    UnknownEvent,
)
from otel_agentbus.journal import MemoryJournal, SegmentJournal
from otel_agentbus.recording import Recorder, sources
from otel_agentbus.recovery import Recovered, opening_of, recover, replay
from otel_agentbus.recovery.retelling import Retelling
from tests.bridging import SECOND, at, connected
from tests.journals import SETTINGS, Block, Exporter, Process, by_id, writer

MODEL: dict[str, Any] = {"model_provider": "openai", "model": "gpt-5-mini"}


def run(name: str, start: float = 0.0, **lineage: Any) -> list[Event]:
    """A run with a model call and a tool call, ended."""
    ids: dict[str, Any] = {"invocation_id": name, "root_invocation_id": name, "agent": name, **lineage}
    return [
        AgentStart(time_ns=at(start), **ids),
        LlmRequest(time_ns=at(start + 1), call_id=f"{name}-c", messages_count=1, **MODEL, **ids),
        LlmResponse(
            time_ns=at(start + 2),
            call_id=f"{name}-c",
            duration=1.0,
            success=True,
            input_tokens=100,
            output_tokens=10,
            **MODEL,
            **ids,
        ),
        ToolCallStart(time_ns=at(start + 3), tool="search", tool_call_id=f"{name}-t", **ids),
        ToolCall(time_ns=at(start + 4), tool="search", tool_call_id=f"{name}-t", duration=1.0, success=True, **ids),
        AgentEnd(time_ns=at(start + 5), duration=5.0, **ids),
    ]


def recovered(directory: Path, **options: Any) -> tuple[Recovered, Exporter]:
    exporter = options.pop("exporter", None) or Exporter()
    return recover(directory, exporters=[exporter], **{"settings": SETTINGS, **options}), exporter


# -- the same bytes ----------------------------------------------------------------------------------------------------

RUNS, CALLS = st.sampled_from(["r1", "r2", "r2/a"]), st.sampled_from(["c1", "c2", None])
ROOTS = {"r1": "r1", "r2": "r2", "r2/a": "r2"}


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """What a program might emit, in order, by blocks and by hand; some of it nonsense."""
    told: list[Event] = []
    seconds = 0.0
    for _ in range(draw(st.integers(1, 25))):
        seconds += draw(st.sampled_from([0.0, 0.25, 1.0, 3.0]))
        who, call = draw(RUNS), draw(CALLS)
        ids: dict[str, Any] = {"time_ns": at(seconds), "invocation_id": who, "root_invocation_id": ROOTS[who]}
        if who == "r2/a":
            ids["parent_invocation_id"] = "r2"
        success = draw(st.booleans())
        error: dict[str, Any] = {} if success else {"error_type": "Oops", "error_message": "it broke"}
        made: list[Event] = [
            AgentStart(agent=who, **ids),
            AgentEnd(agent=who, duration=draw(st.sampled_from([None, 1.5])), **error, **ids),
            LlmRequest(call_id=call, messages_count=2, messages="[]", **MODEL, **ids),
            LlmResponse(
                call_id=call,
                duration=0.5,
                success=success,
                input_tokens=draw(st.sampled_from([None, 1000])),
                output_tokens=7,
                response_id=draw(st.sampled_from([None, "x1"])),
                messages='[{"role":"assistant"}]',
                **error,
                **MODEL,
                **ids,
            ),
            ToolCallStart(tool="t", tool_call_id=call, arguments='{"a":1}', **ids),
            ToolCall(tool="t", tool_call_id=call, duration=0.25, success=success, **error, **ids),
            CacheHit(cache_type="semantic", tokens_saved=5, **ids),
            DomainEvent(name="lead", data={"score": 1.0, "deep": [{"x": None}]}, **ids),
            Error(component="db", message="gone", time_ns=at(seconds)),
            HeartbeatTick(time_ns=at(seconds)),
            DeploymentStarted(deploy_id="d", time_ns=at(seconds)),
            DeploymentFailed(deploy_id="d", reason="x", time_ns=at(seconds)),
            RecoveryCompleted(deploy_id="d", time_ns=at(seconds)),
            AgentStart(agent="anonymous", time_ns=at(seconds)),
            AgentEnd(agent="anonymous", time_ns=at(seconds)),
        ]
        event = draw(st.sampled_from(made))
        if draw(st.booleans()):
            event.origin = Block()
        told.append(event)
    return told


@given(
    told=histories(),
    capture=st.sampled_from(["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"]),
    conventions=st.sampled_from(["1.41", "2026-10", "both"]),
    id_key=st.sampled_from([b"", b"secret"]),
    limits=st.sampled_from([None, SpanLimits(max_events=1, max_span_attributes=6, max_attribute_length=4)]),
)
def test_recovered_spans_are_byte_for_byte_what_the_process_would_have_sent(
    tmp_path_factory: pytest.TempPathFactory,
    told: list[Event],
    capture: str,
    conventions: str,
    id_key: bytes,
    limits: SpanLimits | None,
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    process = Process(directory, capture=capture, conventions=conventions, id_key=id_key, limits=limits)
    expected = process.tell(*told).die()
    found, exporter = recovered(directory, settings=Settings(id_key=SecretBytes(id_key)))
    assert by_id(exporter.spans) == expected
    assert (found.spans, found.events, found.delivered) == (len(exporter.spans), len(told), True)
    assert all(source.finished for source in sources(directory))


@given(told=histories(), order=st.randoms(use_true_random=False))
def test_events_that_threads_wrote_out_of_order_make_the_same_tree(
    tmp_path_factory: pytest.TempPathFactory, told: list[Event], order: random.Random
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    process = Process(directory)
    process.recorder = Recorder(MemoryJournal(), "event")
    process.tell(*told)
    process.recorder = Recorder(process.journal, "event")
    for start in range(0, len(told), 4):
        some = told[start : start + 4]
        order.shuffle(some)
        for event in some:
            process.recorder(event)
    process.die()
    _, exporter = recovered(directory)
    assert tree(exporter.spans) == tree(process.exporter.get_finished_spans())


def test_a_gap_that_is_filled_later_is_no_gap_however_slow_the_endpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(tmp_path)
    process.recorder = Recorder(MemoryJournal(), "event")
    told = run("a")
    process.tell(*told)
    process.recorder = Recorder(process.journal, "event")
    for event in (*told[3:], *told[:3]):
        process.recorder(event)
    process.die()
    seconds = itertools.count()
    monkeypatch.setattr("time.monotonic_ns", lambda: next(seconds) * SECOND)
    _, exporter = recovered(tmp_path)
    assert tree(exporter.spans) == tree(process.exporter.get_finished_spans())


def tree(spans: Iterable[ReadableSpan]) -> list[tuple[Any, ...]]:
    """All but what a call has used: who tells of a call first is known by the order only."""
    return sorted(
        (
            span.context and span.context.span_id,
            span.name,
            span.parent and span.parent.span_id,
            span.start_time,
            span.end_time,
            (span.attributes or {}).get("agentbus.outcome"),
            [event.name for event in span.events],
        )
        for span in spans
    )


@pytest.mark.parametrize("by_block", [False, True])
def test_who_told_of_a_call_decides_again_whether_two_tellings_are_of_one_call(tmp_path: Path, by_block: bool) -> None:
    calls = [event for name in ("x", "y") for event in run(name) if isinstance(event, LlmRequest | LlmResponse)]
    nested = [calls[0], calls[2], calls[3], calls[1]]
    for number, event in enumerate(nested):
        event.invocation_id = event.root_invocation_id = "one"
        event.time_ns = at(number)
        if isinstance(event, LlmResponse):
            event.response_id, event.duration = "the same", 3.0 - 2 * (number == 2)
        if by_block:
            event.origin = Block()
    expected = Process(tmp_path).tell(*nested).die()
    _, exporter = recovered(tmp_path)
    assert by_id(exporter.spans) == expected
    duplicates = ["agentbus.duplicate" in (span.attributes or {}) for span in exporter.spans]
    assert duplicates.count(True) == (0 if by_block else 1)


def test_what_is_open_ends_as_interrupted_when_its_run_was_last_heard_of_with_the_usage_so_far(tmp_path: Path) -> None:
    process = Process(tmp_path)
    expected = process.tell(*run("planner")[:4]).die()
    found, exporter = recovered(tmp_path)
    assert by_id(exporter.spans) == expected
    rows = {
        span.name: (span.end_time, (span.attributes or {}).get("agentbus.outcome"), dict(span.resource.attributes))
        for span in exporter.spans
    }
    resource = dict(process.resource.attributes)
    assert rows == {
        "chat gpt-5-mini": (at(2), "ok", resource),
        "execute_tool search": (at(3), "interrupted", resource),
        "invoke_agent planner": (at(3), "interrupted", resource),
    }
    agent = next(span for span in exporter.spans if span.name == "invoke_agent planner")
    assert (agent.attributes or {})["agentbus.usage.input_tokens"] == 100
    assert found == Recovered(runs=1, spans=3, interrupted=2, sources=1, events=4)


def test_a_tool_whose_block_had_outlived_its_run_is_told_as_it_was(tmp_path: Path) -> None:
    told = run("planner")
    outliving = [told[0], told[3], told[5], told[4]]
    for event in outliving:
        event.origin = Block()
    outliving[2].time_ns, outliving[3].time_ns = at(4), at(60)
    expected = Process(tmp_path).tell(*outliving).die()
    _, exporter = recovered(tmp_path)
    assert by_id(exporter.spans) == expected
    assert {(span.attributes or {}).get("agentbus.outcome") for span in exporter.spans} == {"ok"}


def test_a_tree_over_two_processes_is_sent_by_parts_each_with_the_resource_of_its_process(tmp_path: Path) -> None:
    parent = Process(tmp_path, "p")
    expected = parent.tell(*run("boss")[:3]).die()
    child = Process(tmp_path, "c")
    expected |= child.tell(*run("helper", root_invocation_id="boss", parent_invocation_id="boss")).finish()
    orphan = Process(tmp_path, "o")
    expected_orphan = orphan.tell(*run("worker", root_invocation_id="boss", parent_invocation_id="boss")[:1]).die()
    found, exporter = recovered(tmp_path)
    assert by_id(exporter.spans).keys() == (expected | expected_orphan).keys() - by_ids(child)
    assert found.sources == 2
    assert len({span.context.trace_id for span in exporter.spans if span.context}) == 1


def by_ids(process: Process) -> set[bytes]:
    return set(by_id(process.exporter.get_finished_spans()))


# -- what needs to be sent ---------------------------------------------------------------------------------------------


def test_what_was_delivered_before_is_not_sent_again(tmp_path: Path) -> None:
    process = Process(tmp_path)
    going_on = run("going-on")
    process.tell(*run("done"), *run("idle")[:1], *going_on[:5])
    process.recorder.mark()
    process.tell(going_on[5], *run("new"))
    expected = process.die()
    found, exporter = recovered(tmp_path)
    assert exporter.names == [
        "chat gpt-5-mini",
        "execute_tool search",
        "invoke_agent going-on",
        "invoke_agent idle",
        "invoke_agent new",
    ]
    assert by_id(exporter.spans).items() <= expected.items()
    assert found == Recovered(runs=3, spans=5, interrupted=1, sources=1, events=19)


def test_what_is_open_when_nothing_came_after_the_mark_is_sent_nevertheless(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.tell(*run("idle")[:3])
    process.recorder.mark()
    process.die()
    found, exporter = recovered(tmp_path)
    assert exporter.names == ["invoke_agent idle"]
    assert found == Recovered(runs=1, spans=1, interrupted=1, sources=1, events=3)


@given(before=histories(), after=histories() | st.just([]))
@hypothesis.settings(max_examples=40)
def test_with_what_was_delivered_until_the_mark_nothing_is_missing(
    tmp_path_factory: pytest.TempPathFactory, before: list[Event], after: list[Event]
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    process = Process(directory)
    process.tell(*before)
    process.recorder.mark()
    delivered = by_id(process.exporter.get_finished_spans())
    for event in after:
        event.time_ns = (event.time_ns or 0) + 60 * SECOND
    expected = process.tell(*after).die()
    _, exporter = recovered(directory)
    sent = by_id(exporter.spans)
    assert delivered | sent == expected
    assert not delivered.keys() & sent.keys()


def test_where_everything_was_delivered_nothing_is_sent_and_nobody_looks_again(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.tell(*run("done"))
    process.recorder.mark()
    process.die()
    assert recovered(tmp_path)[0] == Recovered(sources=1, events=6)
    assert [source.finished for source in sources(tmp_path)] == [True]
    assert recovered(tmp_path)[0] == Recovered()


def test_processes_that_are_alive_or_came_to_their_end_are_left_alone(tmp_path: Path) -> None:
    alive = Process(tmp_path, "alive")
    alive.tell(*run("a")[:1])
    Process(tmp_path, "finished").tell(*run("b")).finish()
    found, exporter = recovered(tmp_path)
    assert (found, exporter.spans) == (Recovered(), [])
    alive.die()


def test_a_second_recovery_finds_nothing(tmp_path: Path) -> None:
    Process(tmp_path).tell(*run("a")[:2]).die()
    assert recovered(tmp_path)[0].runs == 1
    assert recovered(tmp_path)[0] == Recovered()


def test_what_somebody_else_recovers_at_this_time_is_left_to_them(tmp_path: Path) -> None:
    Process(tmp_path).tell(*run("a")[:2]).die()
    claim = sources(tmp_path)[0].claim()
    assert claim is not None
    with claim:
        assert recovered(tmp_path)[0] == Recovered()
    assert recovered(tmp_path)[0].runs == 1


def test_what_could_not_be_sent_is_there_for_the_next_recovery(tmp_path: Path) -> None:
    expected = Process(tmp_path).tell(*run("a")[:2]).die()
    found, _ = recovered(tmp_path, exporter=Exporter(takes=False))
    assert (found.runs, found.delivered) == (1, False)
    found, exporter = recovered(tmp_path)
    assert (found.delivered, by_id(exporter.spans)) == (True, expected)


class Spooling(Exporter):
    """Keeps for later what it cannot deliver, as far as there is room."""

    class Counts:
        def __init__(self) -> None:
            self.dropped: dict[str, int] = {}
            self.dead_lettered = 0

    def __init__(self, *, room: bool) -> None:
        super().__init__(takes=False)
        self.counts = self.Counts()
        self.directory = "spool"
        self._room = room

    def export(self, spans: Any) -> Any:
        if not self._room:
            self.counts.dropped["full"] = self.counts.dropped.get("full", 0) + len(spans)
        return super().export(spans)


@pytest.mark.parametrize("room", [True, False])
def test_what_waits_in_the_spool_counts_as_sent_and_what_the_spool_has_dropped_does_not(
    tmp_path: Path, room: bool
) -> None:
    Process(tmp_path).tell(*run("a")).die()
    found, _ = recovered(tmp_path, exporter=Spooling(room=room))
    assert (found.delivered, found.spans) == (room, 3)
    assert [source.finished for source in sources(tmp_path)] == [room]


def test_an_exporter_that_raises_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Exporter):
        def export(self, spans: Any) -> Any:
            raise RuntimeError("a vendor's")

    Process(tmp_path).tell(*run("a")).die()
    with caplog.at_level(logging.WARNING):
        assert not recovered(tmp_path, exporter=Raising())[0].delivered
    assert recovered(tmp_path)[0].delivered


def test_a_long_journal_is_sent_in_batches(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for number in range(400):
        process.tell(*run(f"r{number}"))
    expected = process.die()
    steps: list[tuple[int, int]] = []
    found, exporter = recovered(tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert [len(batch) for batch in exporter.batches] == [512, 512, 176]
    assert by_id(exporter.spans) == expected
    assert (found.runs, found.spans, found.interrupted) == (400, 1200, 0)
    assert (steps[0], steps[-1]) == ((0, 2400), (2400, 2400))
    assert steps == sorted(steps)
    assert not exporter.shut_down


# -- what is not as it should be ---------------------------------------------------------------------------------------


def test_events_of_a_later_version_and_records_that_are_none_are_counted(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.tell(*run("a")[:1], UnknownEvent(name="agent.paused", time_ns=at(1), fields={"why": "lunch"}))
    process.journal.append(b"{]")
    process.die()
    found, _ = recovered(tmp_path)
    assert (found.runs, found.unknown, found.unreadable, found.events) == (1, 1, 1, 2)


def test_a_journal_without_an_opening_is_sent_as_this_processs_own_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(writer(tmp_path), "event")
    for event in run("a"):
        recorder(event)
    recorder.close()
    with caplog.at_level(logging.WARNING):
        found, exporter = recovered(tmp_path, settings=Settings(service_name="here"))
    assert {span.resource.attributes["service.name"] for span in exporter.spans} == {"here"}
    assert found.spans == 3
    assert "no opening" in caplog.text


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("schema_url", 5),
        ("sampler", None),
        ("sampler", "TraceIdRatioBased{9}"),
        ("sampler", "TraceIdRatioBased{1e}"),
        ("limits", {"max_events": "x", "max_links": 1.5, "max_attributes": []}),
        ("limits", [1]),
        ("resource", {"a": {"bytes": 5}}),
        ("conventions", []),
        ("pid", "me"),
        ("source", None),
    ],
)
def test_a_strange_opening_of_another_writer_keeps_nobody_from_recovering(
    tmp_path: Path, field: str, said: Any
) -> None:
    opening = {"source": "s", "resource": {"service.name": "x"}, "limits": {}, "sampler": "", field: said}
    journal = SegmentJournal(
        tmp_path, keep=True, opening=lambda: json.dumps({"opening": opening}, separators=(",", ":")).encode()
    )
    recorder = Recorder(journal, "event")
    for event in run("r1"):
        recorder(event)
    recorder.close()
    assert replay(tmp_path, settings=SETTINGS, exporters=[Exporter()]).spans == 3
    found, exporter = recovered(tmp_path)
    assert (found.spans, found.delivered, len(exporter.names)) == (3, True, 3)


def test_what_one_process_wrote_keeps_nobody_from_recovering_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        Process(tmp_path, name).tell(*run(name)).die()
    tell = Retelling.__call__

    def broken(self: Retelling, told: Any) -> None:
        if told.event.invocation_id == "b":
            raise RuntimeError("what is this?")
        tell(self, told)

    with monkeypatch.context() as patched:
        patched.setattr(Retelling, "__call__", broken)
        found, exporter = recovered(tmp_path)
    assert (found.sources, found.spans, found.delivered) == (2, 6, False)
    assert {"invoke_agent a", "invoke_agent c"} < set(exporter.names)
    assert "The journal of b cannot be recovered" in caplog.text
    again, exporter = recovered(tmp_path)
    assert (again.sources, again.spans, again.delivered) == (1, 3, True)
    assert "invoke_agent b" in exporter.names


def test_another_id_key_is_said_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Process(tmp_path, id_key=b"theirs").tell(*run("a")).die()
    with caplog.at_level(logging.WARNING):
        recovered(tmp_path, settings=Settings(id_key=SecretBytes(b"ours")))
    assert "another AGENTBUS_ID_KEY" in caplog.text
    assert "theirs" not in caplog.text


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_end_costs_the_torn_event_only(tmp_path: Path, cut: int) -> None:
    Process(tmp_path).tell(*run("a")).die()
    segment = max(tmp_path.glob("*.seg"))
    data = segment.read_bytes().rstrip(b"\0")
    segment.write_bytes(data[:-cut])
    found, exporter = recovered(tmp_path)
    assert (found.events, found.interrupted, found.unreadable) == (5, 1, 0)
    assert exporter.names == ["chat gpt-5-mini", "execute_tool search", "invoke_agent a"]


def test_damage_in_the_middle_costs_what_is_damaged_only(tmp_path: Path) -> None:
    Process(tmp_path).tell(*run("a")).die()
    segment = max(tmp_path.glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"tool.start")] ^= 1
    segment.write_bytes(data)
    found, exporter = recovered(tmp_path)
    assert (found.events, found.spans, found.interrupted, found.unreadable) == (5, 3, 0, 1)
    assert exporter.names == ["chat gpt-5-mini", "execute_tool search", "invoke_agent a"]


def test_without_a_journal_or_an_endpoint_it_is_said_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "AGENTBUS_")):
            monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match="AGENTBUS_JOURNAL"):
        recover()
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        recover(tmp_path)
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        replay(tmp_path)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with pytest.raises(ConfigurationError, match="OTEL_SDK_DISABLED"):
        recover(tmp_path)


def test_where_there_is_no_journal_there_is_nothing_to_recover(tmp_path: Path) -> None:
    assert recovered(tmp_path / "none")[0] == Recovered()
    assert not (tmp_path / "none").exists()


# -- a real bus --------------------------------------------------------------------------------------------------------


def agents() -> None:
    """What a program does: nested runs, a tool that calls a model, an error, user's own span data, a thread's work."""
    with agentbus.agent("boss", provider="p", model="m", input="find it") as boss:
        with boss.tool("search", arguments={"q": 1}) as tool:
            with agentbus.llm(model="gpt-5-mini", provider="openai", messages_count=1) as call:
                call.record(input_tokens=1000, output_tokens=10, response_id="r")
            trace.get_current_span().set_attribute("mine", [1, 2])
            trace.get_current_span().add_event("noted", {"x": 1.5})
            tool.record(result="3 hits")
        with pytest.raises(ValueError, match="no"), agentbus.agent("helper"):
            raise ValueError("no")
        lasting = boss.tool("lasting").start()
    lasting.end()
    agentbus.current()


@pytest.mark.parametrize("capture", ["NO_CONTENT", "SPAN_AND_EVENT"])
@pytest.mark.parametrize(
    ("sampler", "share"),
    [
        (ParentBased(TraceIdRatioBased(0.5)), 0.5),
        (TraceIdRatioBased(0.5), 0.5),
        (ALWAYS_ON, 1.0),
        (DEFAULT_ON, 1.0),
        (ALWAYS_OFF, 0.0),
        (DEFAULT_OFF, 0.0),
    ],
    ids=lambda value: str(getattr(value, "get_description", lambda: value)()),
)
def test_what_a_bus_has_exported_is_what_a_replay_of_its_journal_sends(
    tmp_path: Path, capture: str, sampler: Sampler, share: float
) -> None:
    with connected(sampler, settings=Settings(capture_content=capture)) as made:
        opening = opening_of(made.bus.source, made.provider, made.bus.settings)
        recorder = Recorder(writer(tmp_path, opening), "batch")
        apply = made.bus.content_policy.apply
        made.bus.subscribe(lambda event: recorder(apply(event)), Event, priority=-2_000_000)
        for _ in range(8):
            agents()
        made.bus.publish("lead", {"score": 87})
        open_ = agentbus.agent("open").start()
        made.bus.close()
        recorder.finish()
        expected = by_id(made.exporter.get_finished_spans())
    open_.end()
    exporter = Exporter()
    found = replay(tmp_path, settings=SETTINGS, exporters=[exporter])
    assert by_id(exporter.spans) == expected
    if share in (0.0, 1.0):
        assert (len(expected), found.interrupted) == (share * (8 * 5 + 2), share)


# -- real processes ----------------------------------------------------------------------------------------------------

EMITTING = """
    import otel_agentbus as agentbus

    bus = agentbus.connect()
    number = 0
    while True:
        with agentbus.agent(f"a{number}") as run:
            with run.llm(model="m", provider="p", messages_count=1) as call:
                call.record(input_tokens=1, output_tokens=1)
            with run.tool("t"):
                number += 1
                print(number, flush=True)
"""


def environment() -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    return {**clean, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
def test_of_a_process_that_was_killed_no_emitted_event_is_missing(tmp_path: Path, endpoint: str | None) -> None:
    variables = {
        "AGENTBUS_JOURNAL": str(tmp_path / "journal"),
        "AGENTBUS_JOURNAL_SYNC": "event",
        "AGENTBUS_SPOOL_DIR": str(tmp_path / "spool"),
        "OTEL_SERVICE_NAME": "killed",
        **({} if endpoint is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}),
    }
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(EMITTING)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment() | variables, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        told = 20 + len(process.stdout.read().split())
        process.wait()
    found, exporter = recovered(tmp_path / "journal")
    assert found.runs in (told, told + 1)
    outcomes = [(span.attributes or {}).get("agentbus.outcome") for span in exporter.spans]
    assert found.interrupted == outcomes.count("interrupted") in (0, 1, 2)
    assert exporter.names.count("chat m") >= told
    assert exporter.names.count("execute_tool t") >= told
    assert {span.resource.attributes["service.name"] for span in exporter.spans} == {"killed"}
    assert len({span.resource.attributes.get("service.instance.id") for span in exporter.spans}) == 1
    assert len(by_id(exporter.spans)) == len(exporter.spans)


RECOVERING = """
    import json, sys
    from otel_agentbus.recovery import recover
    from tests.journals import Exporter, SETTINGS

    exporter = Exporter()
    print("ready", flush=True)
    sys.stdin.readline()
    recover(sys.argv[1], settings=SETTINGS, exporters=[exporter])
    print(json.dumps([span.name for span in exporter.spans if span.name.startswith("invoke")]))
"""


def test_recoverers_at_the_same_time_send_each_run_once(tmp_path: Path) -> None:
    for number in range(12):
        Process(tmp_path, f"s{number}").tell(*run(f"r{number}")[:3]).die()
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(RECOVERING), str(tmp_path)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment(), text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    sent = [name for process in both for name in json.loads(process.communicate(timeout=60)[0])]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(sent) == sorted(f"invoke_agent r{number}" for number in range(12))
