"""A journal is sent again, whole or in part, with the ids and times that its spans had."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from typer.testing import CliRunner

from otel_agentbus import Settings
from otel_agentbus.cli import app, journals
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import Event, HeartbeatTick, LlmResponse, ToolCall
from otel_agentbus.recording import moment_of, sources
from otel_agentbus.recovery import Replayed, replay
from otel_agentbus.recovery.retelling import Retelling
from tests.bridging import at
from tests.journals import SETTINGS, Exporter, Process, by_id
from tests.receivers import HttpReceiver, Reply
from tests.test_recovery import histories, run

DAY = 86_400.0


def replayed(directory: Path, **options: Any) -> tuple[Replayed, Exporter]:
    exporter = Exporter()
    return replay(directory, exporters=[exporter], **{"settings": SETTINGS, **options}), exporter


# -- the same bytes ----------------------------------------------------------------------------------------------------


@given(told=histories())
def test_replayed_spans_are_byte_for_byte_what_was_sent_each_time(
    tmp_path_factory: pytest.TempPathFactory, told: list[Event]
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    expected = Process(directory).tell(*told).finish()
    for _ in range(2):
        found, exporter = replayed(directory)
        assert by_id(exporter.spans) == expected
        assert (found.spans, found.events, found.delivered) == (len(exporter.spans), len(told), True)


def test_a_journal_of_several_processes_is_replayed_whole_each_part_with_its_resource(tmp_path: Path) -> None:
    expected = Process(tmp_path, "p").tell(*run("boss")).finish()
    expected |= (
        Process(tmp_path, "c").tell(*run("aide", 1, root_invocation_id="boss", parent_invocation_id="boss")).die()
    )
    found, exporter = replayed(tmp_path)
    assert by_id(exporter.spans) == expected
    assert found == Replayed(runs=1, spans=6, sources=2, events=12)
    assert [source.finished for source in sources(tmp_path)] == [True, False]


def test_what_is_open_is_interrupted_where_the_process_is_gone_and_left_out_where_it_is_alive(tmp_path: Path) -> None:
    Process(tmp_path, "gone").tell(*run("a")[:4]).die()
    alive = Process(tmp_path, "alive").tell(*run("b")[:4])
    found, exporter = replayed(tmp_path)
    assert exporter.names == ["chat gpt-5-mini", "chat gpt-5-mini", "execute_tool search", "invoke_agent a"]
    assert (found.spans, found.interrupted, found.open) == (4, 2, 2)
    alive.die()


def test_a_dry_run_counts_the_same_and_sends_nothing(tmp_path: Path) -> None:
    Process(tmp_path).tell(*run("a"), *run("b")[:2]).die()
    dry, exporter = replayed(tmp_path, dry_run=True)
    assert exporter.batches == []
    assert dry == replayed(tmp_path)[0] == Replayed(runs=2, spans=5, interrupted=2, sources=1, events=8)


# -- a part of it ------------------------------------------------------------------------------------------------------


def test_one_tree_is_sent_by_its_root_or_how_that_begins(tmp_path: Path) -> None:
    process = Process(tmp_path)
    inner = run("inner", root_invocation_id="abc-1", parent_invocation_id="abc-1")
    expected = process.tell(*run("abc-1"), *inner, *run("abd-1"), *run("abc")).finish()
    whole, exporter = replayed(tmp_path, only="abc-1")
    assert (whole.runs, whole.spans) == (1, 6)
    assert by_id(exporter.spans).items() <= expected.items()
    assert replayed(tmp_path, only="abd")[0].spans == 3
    assert replayed(tmp_path, only="abc")[0].spans == 3  # it is an id itself, besides being how another begins
    with pytest.raises(ConfigurationError, match=r"3 runs begin with 'ab'"):
        replayed(tmp_path, only="ab")
    with pytest.raises(ConfigurationError, match="no run 'x'"):
        replayed(tmp_path, only="x")


def test_a_part_says_of_its_calls_what_the_whole_says(tmp_path: Path) -> None:
    told = [*run("a"), *run("b", 10)]
    for event in told:
        if isinstance(event, LlmResponse):
            event.response_id = "the same answer"
    expected = Process(tmp_path).tell(*told).finish()
    _, exporter = replayed(tmp_path, only="b")
    assert by_id(exporter.spans).items() <= expected.items()


def test_trees_are_sent_whole_if_something_of_them_happened_since(tmp_path: Path) -> None:
    Process(tmp_path).tell(*run("old"), *run("between", 98), *run("new", 200)).finish()
    moment = datetime.fromtimestamp(at(100) / 1e9, UTC)
    here = moment.astimezone().replace(tzinfo=None)
    for since in (moment, moment.isoformat(), here, here.isoformat()):
        found, exporter = replayed(tmp_path, since=since)
        assert (found.runs, found.spans) == (2, 6)
        assert {"invoke_agent between", "invoke_agent new"} < set(exporter.names)


@pytest.mark.parametrize(
    ("said", "ago"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("1.5h", 5400), (" 7d ", 7 * DAY), ("1w", 7 * DAY), (timedelta(1), DAY)],
)
def test_since_may_be_how_long_ago(said: str | timedelta, ago: float) -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    assert moment_of(said, now) == now - timedelta(seconds=ago)


def test_a_time_without_a_zone_is_local_in_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        expected = datetime(2026, 11, 21, 7, 30, tzinfo=UTC)
        assert moment_of("2026-11-21T16:30") == moment_of(datetime(2026, 11, 21, 16, 30)) == expected  # noqa: DTZ001
        assert moment_of("2026-11-21T16:30Z") == datetime(2026, 11, 21, 16, 30, tzinfo=UTC)
        assert journals.moment_of("2026-11-21T16:30") == round(expected.timestamp() * 1e9)
        process = Process(tmp_path)
        process.tell(*run("early"))
        process.die()
        moment = datetime.fromtimestamp(at(3) / 1e9).isoformat()  # noqa: DTZ006 - local is meant
        assert (replayed(tmp_path, since=moment)[0].runs, replayed(tmp_path, since=moment + "Z")[0].runs) == (1, 0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("options", [{"since": "yesterday"}, {"since": "1e99d"}, {"speed": 0}, {"speed": -1.0}])
def test_what_cannot_be_read_is_said(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        replayed(tmp_path, **options)


# -- time --------------------------------------------------------------------------------------------------------------


class Waits(threading.Event):
    """A stop that nobody presses, and that notes how long is waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return self.is_set()


def test_a_replay_takes_the_time_that_it_took_or_as_much_less_as_asked(tmp_path: Path) -> None:
    Process(tmp_path).tell(*run("a")).finish()
    stop = Waits()
    replayed(tmp_path, speed=4.0, stop=stop)
    assert stop.waited == [0.25] * 5
    stop.waited.clear()
    replayed(tmp_path, stop=stop)
    assert stop.waited == []


def test_a_clock_that_jumped_back_is_not_waited_for(tmp_path: Path) -> None:
    told = run("a")
    for event, seconds in zip(told, (10, 11, 3, 3, 12, 12), strict=True):
        event.time_ns = at(seconds)
    Process(tmp_path).tell(*told).finish()
    stop = Waits()
    replayed(tmp_path, speed=1.0, stop=stop)
    assert stop.waited == [1.0, 1.0]


def test_a_replay_that_is_stopped_sends_what_had_ended(tmp_path: Path) -> None:
    class After(Waits):
        def wait(self, timeout: float | None = None) -> bool:
            super().wait(timeout)
            if len(self.waited) == 3:
                self.set()
            return self.is_set()

    Process(tmp_path).tell(*run("a")).finish()
    found, exporter = replayed(tmp_path, speed=1.0, stop=After())
    assert exporter.names == ["chat gpt-5-mini"]
    assert found.interrupted == 0


def test_a_run_of_which_nothing_is_heard_for_a_day_is_interrupted_and_its_later_end_makes_no_second_span(
    tmp_path: Path,
) -> None:
    told = run("a")
    told[5].time_ns = at(3 * DAY)
    Process(tmp_path).tell(*told[:5], HeartbeatTick(time_ns=at(2 * DAY)), told[5]).finish()
    found, exporter = replayed(tmp_path)
    agent = [span for span in exporter.spans if span.name == "invoke_agent a"]
    assert [(span.end_time, (span.attributes or {})["agentbus.outcome"]) for span in agent] == [(at(4), "interrupted")]
    assert (found.expired, found.interrupted, found.late) == (1, 1, 1)


def test_a_run_lives_as_long_as_anything_of_its_tree_is_heard_of_in_any_process(tmp_path: Path) -> None:
    boss = run("boss")
    boss[5].time_ns = at(1.8 * DAY)
    Process(tmp_path, "p").tell(*boss[:5], HeartbeatTick(time_ns=at(1.5 * DAY)), boss[5]).finish()
    Process(tmp_path, "c").tell(
        *run("aide", 0.9 * DAY, root_invocation_id="boss", parent_invocation_id="boss")
    ).finish()
    found, _ = replayed(tmp_path)
    assert (found.expired, found.interrupted, found.spans) == (0, 0, 6)


def test_how_long_a_run_lives_is_a_setting(tmp_path: Path) -> None:
    told = run("a")
    told[5].time_ns = at(100)
    Process(tmp_path).tell(*told[:5], HeartbeatTick(time_ns=at(70)), told[5]).finish()
    assert replayed(tmp_path)[0].expired == 0
    assert replayed(tmp_path, settings=Settings(run_ttl=60.0))[0].expired == 1


def test_an_end_waits_for_its_start_in_the_time_of_the_events(tmp_path: Path) -> None:
    told = run("a")
    early_end = told[4]
    assert isinstance(early_end, ToolCall)
    early_end.time_ns = at(2.5)
    expected = Process(tmp_path).tell(*told[:3], early_end, told[3], told[5]).finish()
    _, exporter = replayed(tmp_path)
    assert by_id(exporter.spans) == expected
    assert exporter.names.count("execute_tool search") == 1


# -- to an endpoint ----------------------------------------------------------------------------------------------------


@contextmanager
def clean_settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "AGENTBUS_")):
            monkeypatch.delenv(name)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    yield


def spans_at(receiver: HttpReceiver) -> list[str]:
    return sorted(
        span.name
        for request in receiver.of("/v1/traces")
        for of_resource in request.message.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    )


ALL = ["chat gpt-5-mini", "execute_tool search", "invoke_agent a"]


def test_replay_sends_to_the_endpoint_of_the_settings_and_counts_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(tmp_path / "j").tell(*run("a")).finish()
    spool = str(tmp_path / "spool")
    with HttpReceiver() as receiver, clean_settings(monkeypatch, AGENTBUS_SPOOL_DIR=spool):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        done = CliRunner().invoke(app, ["replay", str(tmp_path / "j")])
        assert (done.exit_code, done.output) == (
            0,
            "3 spans of 1 run sent, 0 of them interrupted; 6 events of 1 process.\n",
        )
        assert spans_at(receiver) == ALL
        assert receiver.of("/v1/metrics") == []


def test_metrics_are_counted_again_if_asked_with_the_resource_of_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(tmp_path / "j").tell(*run("a")).finish()
    with HttpReceiver() as receiver, clean_settings(monkeypatch, AGENTBUS_SPOOL_DIR=str(tmp_path / "spool")):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        done = CliRunner().invoke(app, ["replay", str(tmp_path / "j"), "--metrics"])
        assert done.exit_code == 0, done.output
        told = [r for request in receiver.of("/v1/metrics") for r in request.message.resource_metrics]
    names = {metric.name for of_resource in told for scope in of_resource.scope_metrics for metric in scope.metrics}
    assert "agentbus.llm.calls" in names
    assert {a.value.string_value for r in told for a in r.resource.attributes if a.key == "service.name"} == {"tést"}


def test_recover_sends_what_was_left_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "j"
    Process(journal).tell(*run("a")[:5]).die()
    variables = {"AGENTBUS_SPOOL_DIR": str(tmp_path / "spool"), "AGENTBUS_JOURNAL": str(journal)}
    with HttpReceiver() as receiver, clean_settings(monkeypatch, **variables):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        said = [CliRunner().invoke(app, ["recover"]) for _ in range(2)]
        assert [(done.exit_code, done.output) for done in said] == [
            (0, "1 run of 1 process recovered: 3 spans, 1 of them interrupted.\n"),
            (0, f"Nothing to recover in {journal}.\n"),
        ]
        assert spans_at(receiver) == ALL


def test_recover_keeps_in_the_spool_what_the_endpoint_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "j"
    Process(journal).tell(*run("a")).die()
    replies = {"/v1/traces": Reply(status=503)}
    variables = {"AGENTBUS_SPOOL_DIR": str(tmp_path / "spool"), "AGENTBUS_EXIT_TIMEOUT": "0.2"}
    with HttpReceiver(replies) as receiver, clean_settings(monkeypatch, **variables):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        done = CliRunner().invoke(app, ["recover", str(journal)])
        assert done.exit_code == 0
        assert "3 spans in the spool" in done.output
        assert [source.finished for source in sources(journal)] == [True]
        assert list((tmp_path / "spool").rglob("*.seg"))


def test_recover_says_what_the_endpoint_has_refused_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "j"
    Process(journal).tell(*run("a")).die()
    replies = {"/v1/traces": Reply(status=400)}
    with HttpReceiver(replies) as receiver, clean_settings(monkeypatch, AGENTBUS_SPOOL_DIR=str(tmp_path / "spool")):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        done = CliRunner().invoke(app, ["recover", str(journal)])
        assert (done.exit_code, "3 spans in batches that the endpoint refused" in done.output) == (0, True)
        assert [source.finished for source in sources(journal)] == [True]


def test_recover_leaves_the_journal_as_it_is_where_nothing_keeps_the_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "j"
    Process(journal).tell(*run("a")).die()
    replies = {"/v1/traces": Reply(status=503)}
    variables = {"AGENTBUS_SPOOL_DIR": "off", "AGENTBUS_EXIT_TIMEOUT": "0.2", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"}
    with HttpReceiver(replies) as receiver, clean_settings(monkeypatch, **variables):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        done = CliRunner().invoke(app, ["recover", str(journal)])
        assert (done.exit_code, "Run recover again" in done.output) == (1, True)
    assert [source.finished for source in sources(journal)] == [False]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["recover"], "Which journal?"),
        (["recover", "nowhere"], "There is no journal in nowhere"),
        (["replay", "nowhere"], "There is no journal in nowhere"),
        (["recover", "."], "set OTEL_EXPORTER_OTLP_ENDPOINT"),
        (["replay", "."], "set OTEL_EXPORTER_OTLP_ENDPOINT"),
        (["replay", ".", "--dry-run", "--speed", "0"], "must be more than 0"),
        (["replay", ".", "--dry-run", "--since", "soon"], "'soon' is no time"),
        (["replay", ".", "--dry-run", "--only", "x"], "There is no run 'x'"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with clean_settings(monkeypatch):
        done = CliRunner().invoke(app, command)
    assert (done.exit_code, sentence in done.output) == (2, True), done.output


@pytest.mark.parametrize("command", [["recover"], ["replay"]])
def test_an_interrupt_ends_with_a_sentence_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    process = Process(tmp_path)
    process.tell(*run("r1"))
    process.die()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with clean_settings(monkeypatch), HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("AGENTBUS_SPOOL_DIR", "off")
        with monkeypatch.context() as patched:
            patched.setattr(Retelling, "__call__", interrupted)
            done = CliRunner().invoke(app, [*command, str(tmp_path)])
        assert (done.exit_code, done.output.startswith("Stopped. What was sent is sent")) == (130, True), done.output
        done = CliRunner().invoke(app, [*command, str(tmp_path)])
        assert (done.exit_code, "3 spans" in done.output) == (0, True), done.output


@pytest.mark.parametrize("command", [["recover"], ["replay", "--dry-run"], ["stats"], ["tail", "-n"]])
def test_a_journal_that_cannot_be_read_is_said_in_a_sentence_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    def refuse(*_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("otel_agentbus.journal.places.os.scandir", refuse)
    with clean_settings(monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:1")
        done = CliRunner().invoke(app, [*command, str(tmp_path)])
    said = " ".join(done.output.split())
    assert done.exit_code == 2, done.output
    assert f"The journal {tmp_path} cannot be read: " in said
    assert "Permission denied" in said
