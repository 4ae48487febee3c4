"""The journal of a bus: every event, in order, without what stays home; finished at a clean end, else recovered."""

from __future__ import annotations

from pathlib import Path

import pytest

import otel_agentbus as agentbus
from otel_agentbus import connect
from otel_agentbus.events import Event, LlmResponse
from otel_agentbus.journal import writers
from otel_agentbus.recording import read_events, sources
from otel_agentbus.recovery import recover
from otel_agentbus.testing import wait_until

from .receivers import HttpReceiver, Reply, closed_port, forget_environment
from .test_exit import names_at

LONG = 20.0
KINDS = ["agent.start", "llm.request", "llm.response", "tool.start", "tool.end", "lead_qualified", "agent.end"]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_environment(monkeypatch)
    monkeypatch.setenv("AGENTBUS_JOURNAL", str(tmp_path / "journal"))


def work(bus: agentbus.Bus) -> None:
    with agentbus.agent("planner", input="a secret question") as run:
        with run.llm("m", messages=["a secret message"]) as call:
            call.record(input_tokens=3)
        with run.tool("search", arguments={"q": "a secret argument"}):
            pass
        bus.publish("lead_qualified", {"score": 87})


def kinds(directory: Path) -> list[str]:
    return [getattr(event, "name", event.kind) for event in read_events(directory)]


@pytest.mark.parametrize("sync", ["event", "batch"])
def test_every_event_is_written_in_order_and_without_content_that_is_not_captured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sync: str
) -> None:
    monkeypatch.setenv("AGENTBUS_JOURNAL_SYNC", sync)
    with connect() as bus:
        work(bus)
        work(bus)
        assert bus.flush(LONG)
        assert bus.health()["journal"] == {"written": 14, "waiting": 0, "failed": {}}
    assert kinds(tmp_path / "journal") == KINDS * 2
    assert [event.seq for event in read_events(tmp_path / "journal")] == list(range(14))
    written = b"".join(path.read_bytes() for path in (tmp_path / "journal").rglob("*.seg"))
    assert b"planner" in written
    assert b"secret" not in written


def test_with_event_sync_it_is_written_before_any_other_handler_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTBUS_JOURNAL_SYNC", "event")
    seen: list[bool] = []
    with connect() as bus:

        @bus.on(priority=-(1 << 40))
        def look(event: Event) -> None:
            seen.append(kinds(tmp_path / "journal").count(event.kind) == 1)

        with agentbus.agent("planner") as run, run.llm("m"):
            pass
    assert seen == [True] * 4


def test_captured_content_is_written_scrubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    with connect(), agentbus.agent("planner", input={"question": "why?", "api_key": "sk-1234567890abcdef"}):
        pass
    written = b"".join(path.read_bytes() for path in (tmp_path / "journal").rglob("*.seg"))
    assert b"why?" in written
    assert b"sk-1234567890abcdef" not in written


def test_after_a_clean_end_there_is_nothing_to_recover(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            work(bus)
            left_open = agentbus.agent("open").start()
        assert sorted(names_at(receiver)) == [
            "chat m",
            "execute_tool search",
            "invoke_agent open",
            "invoke_agent planner",
        ]
        left_open.end()
        assert [log.finished for log in writers(tmp_path / "journal")] == [True]
        assert recover().sources == 0


def test_a_clean_end_that_could_not_keep_its_spans_leaves_them_to_be_recovered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTBUS_SPOOL_DIR", "off")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with closed_port() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        with connect() as bus:
            work(bus)
            assert not bus.close(0.5)
    assert [log.finished for log in writers(tmp_path / "journal")] == [False]
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        found = recover()
        assert (found.runs, found.spans, found.delivered) == (1, 3, True)
        assert sorted(names_at(receiver)) == ["chat m", "execute_tool search", "invoke_agent planner"]


def test_connecting_with_recover_sends_in_the_background_what_was_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTBUS_SPOOL_DIR", "off")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with closed_port() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        with connect() as bus:
            work(bus)
            bus.close(0.5)
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect(recover=True):
            assert wait_until(lambda: len(names_at(receiver)) == 3, LONG)
            assert wait_until(lambda: sum(log.finished for log in writers(tmp_path / "journal")) == 1, LONG)


def test_what_was_delivered_is_marked_while_the_process_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            work(bus)
            last = [told.position for told in sources(tmp_path / "journal")[0].records()] if bus.flush(LONG) else []
            assert len(last) == len(KINDS)
            assert wait_until(lambda: sources(tmp_path / "journal")[0].marked == last[-1], LONG)


def test_a_directory_that_cannot_be_written_is_counted_and_costs_the_agent_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AGENTBUS_JOURNAL", str(tmp_path / "file" / "journal"))
    monkeypatch.setenv("AGENTBUS_JOURNAL_SYNC", "event")
    heard: list[Event] = []
    with connect() as bus:
        bus.on(LlmResponse)(heard.append)
        work(bus)
        bus.flush(LONG)
        journal = bus.health()["journal"]
    assert len(heard) == 1
    assert (journal["written"], sum(journal["failed"].values())) == (0, len(KINDS))


def test_a_refused_span_is_no_reason_to_recover(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with HttpReceiver({"/v1/traces": Reply(400)}) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            work(bus)
        assert bus.health()["spans"]["dead_lettered"] == 3
    assert [log.finished for log in writers(tmp_path / "journal")] == [True]
