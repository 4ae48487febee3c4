"""SIGKILL at fifty random moments: what was emitted is recovered to the last event, and what was open is interrupted.

The programs tell of each event when its emit has returned; recovery is a process of its own, and two at once.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.recording import sources

from .backends import Collector, Jaeger, eventually
from .otlp_json import Span
from .programs.troupe import THREADS, Line
from .troupes import (
    ROOT,
    Troupe,
    assert_own_place,
    assert_own_tokens,
    environment,
    roots,
    span_id,
    trace_id,
)

KILLS = {"event": 50, "batch": 12}
#: So many programs at once, and for so long at most does each of them live when it has begun, in seconds.
AT_ONCE, LONGEST_S = 3, 0.8
#: In a batch the last 50 ms may be missing, and what a machine with too few cores takes to come to it.
USUALLY_MISSING_S, MISSING_S = 0.1, 0.5

#: What `recover` says.
SAID = re.compile(
    r"(?P<runs>[\d,]+) runs? of (?P<sources>[\d,]+) process(?:es)? recovered: "
    r"(?P<spans>[\d,]+) spans?, (?P<interrupted>[\d,]+) of them interrupted\."
)


class Numbers(NamedTuple):
    """What a recovery says that it has done."""

    runs: int = 0
    sources: int = 0
    spans: int = 0
    interrupted: int = 0


@dataclass(frozen=True)
class Killed:
    """All killed programs: what they told, what their journal holds, what recoveries said, what Jaeger has after."""

    sync: str
    told: dict[str, list[Line]]
    written: dict[str, list[Event]]
    recovered: list[Numbers]
    again: str
    spans: dict[str, list[Span]]

    def trees(self) -> Iterator[tuple[str, list[Line], list[Span]]]:
        """Each tree that a program told of: its root, the lines and the spans of it."""
        for lines in self.told.values():
            for root in roots(lines):
                yield root, [line for line in lines if line.root == root], self.spans[root]

    def known(self) -> dict[str, tuple[bool, int]]:
        """The spans that the journal tells of: whether each has ended there, and what tokens its end has."""
        found: dict[str, tuple[bool, int]] = {}
        for event in (event for events in self.written.values() for event in events):
            line = line_of(event)
            if line is not None:
                found[span_id(line)] = (line.at == "end", getattr(event, "input_tokens", None) or 0)
        return found


def line_of(event: Event) -> Line | None:
    """The line that the program tells of this event."""
    root, run = event.root_invocation_id or "", event.invocation_id or ""
    match event:
        case AgentStart() | AgentEnd():
            kind, local = "agent", ""
        case LlmRequest() | LlmResponse():
            kind, local = "llm", event.call_id or ""
        case ToolCallStart() | ToolCall():
            kind, local = "tool", event.tool_call_id or ""
        case _:
            return None
    at = "end" if isinstance(event, AgentEnd | LlmResponse | ToolCall) else "start"
    return Line(at, kind, root, run, local, "")


@pytest.fixture(scope="module", params=["event", "batch"])
def killed(
    request: pytest.FixtureRequest, collector: Collector, jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory
) -> Killed:
    """Programs that export as they go, every one of them killed, and two recoveries of their journal at once."""
    sync: str = request.param
    directory = tmp_path_factory.mktemp(f"killed-{sync}")
    journal = directory / "journal"
    seed = int(os.environ.get("AGENTBUS_KILLED_SEED") or random.randrange(10**6))
    print(f"AGENTBUS_KILLED_SEED={seed}")
    dice, service = random.Random(seed), f"killed-{uuid.uuid4().hex[:8]}"
    variables = {
        "OTEL_SERVICE_NAME": service,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "AGENTBUS_JOURNAL": str(journal),
        "AGENTBUS_JOURNAL_SYNC": sync,
        "AGENTBUS_SPOOL_DIR": str(directory / "spool"),
    }
    http, grpc = (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        for endpoint, protocol in (
            (collector.otlp_http_endpoint, "http/protobuf"),
            (collector.otlp_grpc_endpoint, "grpc"),
        )
    )

    def kill_one(number: int, moment: float) -> Troupe:
        where = http if number % 2 else grpc
        program = Troupe(directory, {**variables, **where}, f"{service}-{number}", 0)
        try:
            program.await_ready()
            time.sleep(moment)
            assert program.popen.poll() is None
        finally:
            program.popen.send_signal(signal.SIGKILL)
        assert program.wait().code == -signal.SIGKILL
        return program

    moments = [dice.uniform(0, LONGEST_S) for _ in range(KILLS[sync])]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        programs = list(threads.map(kill_one, range(len(moments)), moments))
    told = {program.name: program.told() for program in programs}
    written = {recorded.source: list(recorded.events()) for recorded in sources(journal)}

    env = environment(variables | http)
    both = [start_recover(env) for _ in range(2)]
    said = [program.communicate(timeout=60) for program in both]
    assert [program.returncode for program in both] == [0, 0], said
    third = start_recover(env)
    again, _ = third.communicate(timeout=60)
    assert third.returncode == 0
    numbers = [numbers_of(out) for out, _ in said]
    spans = settled(jaeger, told, written)
    return Killed(sync, told, written, numbers, again, spans)


def start_recover(env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "otel_agentbus", "recover"]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def numbers_of(said: str) -> Numbers:
    found = SAID.search(said)
    if found is None:
        assert "Nothing to recover" in said
        return Numbers()
    return Numbers(**{name: int(number.replace(",", "")) for name, number in found.groupdict().items()})


def settled(jaeger: Jaeger, told: dict[str, list[Line]], written: dict[str, list[Event]]) -> dict[str, list[Span]]:
    """What Jaeger has of all trees, once it has as many spans of each as the journal knows: or what it has at last."""
    wanted: dict[str, set[str]] = {root: set() for lines in told.values() for root in roots(lines)}
    for event in (event for events in written.values() for event in events):
        line = line_of(event)
        if line is not None:
            wanted.setdefault(line.root, set()).add(span_id(line))

    found: dict[str, list[Span]] = {}

    def missing() -> list[str]:
        for root, ids in wanted.items():
            if root not in found or len(found[root]) < len(ids):
                found[root] = jaeger.spans(trace_id(root))
        return [root for root, ids in wanted.items() if len(found[root]) < len(ids)]

    eventually(missing, lambda roots: not roots, 20.0)  # what is missing then is for the tests to say
    return {root: jaeger.spans(trace_id(root)) for root in wanted}


def test_the_programs_were_in_the_middle_of_their_work(killed: Killed) -> None:
    assert len(killed.told) == KILLS[killed.sync]
    unfinished = [root for root, lines, _ in killed.trees() if lines[-1].at != "end" or lines[-1].kind != "agent"]
    assert len(unfinished) > len(killed.told)
    assert sum(len(lines) for lines in killed.told.values()) > 40 * len(killed.told)


def test_no_event_whose_emit_returned_is_missing_in_the_journal(killed: Killed) -> None:
    """With `event`, none; with `batch`, those of the last moment: nothing is missing from the middle."""
    written = [event for events in killed.written.values() for event in events]
    known = {line._replace(ns="") for event in written if (line := line_of(event)) is not None}
    lost_s = []
    for lines in killed.told.values():
        missing = [line for line in lines if line.root and line._replace(ns="") not in known]
        lost_s.append((int(lines[-1].ns) - int(missing[0].ns)) / 1e9 if missing else 0.0)
        assert killed.sync == "batch" or not missing
    assert median(lost_s) < USUALLY_MISSING_S, lost_s
    assert max(lost_s) < MISSING_S, lost_s
    for events in killed.written.values():
        numbers = sorted(event.seq or 0 for event in events)
        assert len(set(numbers)) == len(numbers)
        # each thread may have been killed between an event's number and its writing
        assert not numbers or numbers[-1] + 1 - len(numbers) <= 2 * THREADS


def test_every_span_that_the_journal_knows_is_in_jaeger_once_and_no_other(killed: Killed) -> None:
    ids = Counter(span.span_id for spans in killed.spans.values() for span in spans)
    assert ids == Counter(dict.fromkeys(killed.known(), 1))


def test_what_had_ended_is_there_with_its_end_and_what_had_not_is_interrupted(killed: Killed) -> None:
    outcomes: Counter[str] = Counter()
    known = killed.known()
    for spans in killed.spans.values():
        for span in spans:
            ended, tokens = known[span.span_id]
            assert span.attributes["agentbus.outcome"] == ("ok" if ended else "interrupted")
            assert span.status == "UNSET"
            if ended and tokens:
                assert span.attributes["gen_ai.usage.input_tokens"] == tokens
            outcomes["ok" if ended else "interrupted"] += 1
    assert min(outcomes.values()) > len(killed.told)
    assert len(outcomes) == 2


@pytest.mark.parametrize("killed", ["event"], indirect=True)  # in a batch the last run may be missing
def test_every_run_that_was_told_is_there_and_every_unfinished_one_is_interrupted(killed: Killed) -> None:
    for root, lines, spans in killed.trees():
        ended = {span_id(line): line for line in lines if line.at == "end"}
        begun = {span_id(line): line for line in lines}
        by_id = {span.span_id: span for span in spans}
        assert begun.keys() <= by_id.keys(), root
        for id_, line in ended.items():
            assert by_id[id_].attributes["agentbus.outcome"] == "ok"
            assert_own_tokens(by_id[id_], line)
        for id_, line in begun.items():
            assert_own_place(by_id[id_], line)


def test_the_trees_have_one_root_and_no_orphan(killed: Killed) -> None:
    for root, spans in killed.spans.items():
        ids = {span.span_id for span in spans}
        if ids:
            assert [span.parent_span_id for span in spans if span.parent_span_id not in ids] == [None], root


def test_spans_are_those_of_the_process_that_was_killed(killed: Killed) -> None:
    """All spans of a process, sent by itself or recovered, have the same resource."""
    for name in killed.told:
        seen = {
            str(span.resource) for root, spans in killed.spans.items() if root.startswith(f"{name}-") for span in spans
        }
        assert len(seen) <= 1  # none where it was killed before its first emit


def test_two_recoveries_at_once_have_recovered_each_process_once(killed: Killed) -> None:
    total = Numbers(*map(sum, zip(*killed.recovered, strict=True)))
    interrupted = [
        span
        for spans in killed.spans.values()
        for span in spans
        if span.attributes["agentbus.outcome"] == "interrupted"
    ]
    assert total.sources == len(killed.written)
    assert total.interrupted == len(interrupted)
    assert len({span.trace_id for span in interrupted}) <= total.runs <= len(killed.spans)


def test_a_second_recovery_finds_nothing(killed: Killed) -> None:
    assert "Nothing to recover" in killed.again


def test_the_next_process_recovers_where_it_is_asked_to(collector: Collector, jaeger: Jaeger, tmp_path: Path) -> None:
    """AGENTBUS_RECOVER: nobody needs to call `recover`."""
    name = f"next-{uuid.uuid4().hex[:8]}"
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp_http_endpoint,
        "OTEL_SERVICE_NAME": name,
        "AGENTBUS_JOURNAL": str(tmp_path / "journal"),
        "AGENTBUS_JOURNAL_SYNC": "event",
        "AGENTBUS_SPOOL_DIR": str(tmp_path / "spool"),
    }
    program = Troupe(tmp_path, settings, f"{name}-first", 0)
    program.await_ready()
    eventually(program.told, lambda lines: len(roots(lines)) > THREADS, 30.0)
    program.popen.kill()
    program.wait()
    successor = Troupe(tmp_path, {**settings, "AGENTBUS_RECOVER": "1"}, f"{name}-second", 0)
    try:
        for root in roots(program.told()):
            lines = [line for line in program.told() if line.root == root]
            spans = {span.span_id: span for span in jaeger.trace(trace_id(root), len(set(map(span_id, lines))), 30.0)}
            whole = any((line.at, line.kind, line.run) == ("end", "agent", root) for line in lines)
            assert spans.keys() >= {span_id(line) for line in lines}
            outcome = spans[span_id(lines[0])].attributes["agentbus.outcome"]
            assert (
                outcome == "ok" if whole else outcome in ("interrupted", "ok")
            )  # killed after its end, before the line
            for line in lines:
                assert_own_place(spans[span_id(line)], line)
    finally:
        successor.popen.kill()
        successor.wait()
