"""A program with a broker, as a process: its spans by a relay are those it would export, and it ends as ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from otel_agentbus import Settings
from otel_agentbus.cli import app
from otel_agentbus.relay import relay
from otel_agentbus.testing import wait_until

from ..receivers import HttpReceiver
from .programs import brokered
from .test_relay import TRACES, Running, lag, relaying


def told(directory: Path, variables: dict[str, str], *arguments: str) -> dict[str, Any]:
    """The receipt of the program, which has ended as it should."""
    everywhere = {"AGENTBUS_SPOOL_DIR": str(directory / "spool"), "OTEL_SERVICE_NAME": "whole"}
    running = Running(directory, {**everywhere, **variables}, brokered.__name__, *arguments)
    assert running.wait() == 0, running.err
    found: dict[str, Any] = json.loads(running.out.splitlines()[-1])
    return found


def received(receiver: HttpReceiver) -> dict[bytes, tuple[bytes, ...]]:
    """The bytes of each span that arrived, by its id, with those of its resource and its scope."""
    found: dict[bytes, tuple[bytes, ...]] = {}
    for request in receiver.of(TRACES):
        for of_resource in request.message.resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    parts = (of_resource.resource, of_scope.scope, span)
                    data = tuple(part.SerializeToString(deterministic=True) for part in parts)
                    assert found.setdefault(span.span_id, data) == data
    return found


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.3"},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.3"},
        {"AGENTBUS_CAPTURE_CONTENT": "true"},
        {"AGENTBUS_ID_KEY": "of our own"},
        {"AGENTBUS_CONVENTIONS": "2026-10"},
        {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5"},
    ],
    ids=str,
)
def test_a_relay_sends_the_bytes_that_the_process_sends_itself(
    redis_url: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    with HttpReceiver() as own, HttpReceiver() as relayed:
        both = {"AGENTBUS_BROKER": redis_url, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": own.url}
        receipt = told(tmp_path, {**both, "OTEL_METRICS_EXPORTER": "none", **variables})
        assert receipt["done"]
        key = variables.get("AGENTBUS_ID_KEY")
        relay(redis_url, settings=Settings(endpoint=relayed.url, id_key=key), until_empty=True)
        wanted, found = received(own), received(relayed)
    assert found == wanted
    assert len(wanted) > 5
    assert b"agentbus.cost.usd" in b"".join(span for _, _, span in wanted.values())


@pytest.mark.parametrize("provider", ["sdk", "foreign"])
def test_where_a_relay_makes_the_spans_the_applications_own_provider_makes_none(
    redis_url: str, tmp_path: Path, provider: str
) -> None:
    receipt = told(tmp_path, {"AGENTBUS_BROKER": redis_url, "PROVIDER": provider})
    assert (receipt["done"], receipt["made here"]) == (True, 0)
    assert receipt["traces"] == "made by a relay, of the events that the broker takes"
    with HttpReceiver() as relayed:
        done = relay(redis_url, settings=Settings(endpoint=relayed.url), until_empty=True)
        spans = received(relayed)
    assert done.spans == len(spans) == 4 * brokered.RUNS + 4  # without the one whose parent is not sampled
    service = b"own" if provider == "sdk" else b"whole"
    assert all(service in resource for resource, _, _ in spans.values())


def test_the_receipt_of_a_program_with_a_broker_adds_up(redis_url: str, tmp_path: Path) -> None:
    receipt = told(tmp_path, {"AGENTBUS_BROKER": "redis://127.0.0.1:9/0"})
    assert (receipt["done"], receipt["broker"]["given"]) == (False, receipt["broker"]["kept"])
    assert receipt["balance"] == {"events": 0, "spans": 0, "deliveries": 0, "broker": 0}
    receipt = told(tmp_path, {"AGENTBUS_BROKER": redis_url})
    assert (receipt["done"], receipt["broker"]["given"]) == (True, receipt["broker"]["written"])
    assert receipt["balance"] == {"events": 0, "spans": 0, "deliveries": 0, "broker": 0}
    assert lag(redis_url) == receipt["broker"]["written"]


# -- what doctor says of it, and groups that are forgotten -----------------------------------------------------------


def doctor(monkeypatch: pytest.MonkeyPatch, url: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setenv("AGENTBUS_BROKER", url)
    monkeypatch.setenv("AGENTBUS_PRICES", "")
    result = CliRunner().invoke(app, ["doctor", "--json", "--timeout", "2"])
    found: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, found


def sentences(report: dict[str, Any], level: str) -> list[str]:
    return [found["sentence"] for found in report["findings"] if found["level"] == level]


def test_doctor_says_how_the_broker_is(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = doctor(monkeypatch, redis_url)
    assert (code, sentences(report, "problem")) == (0, [])
    assert report["pipeline"]["traces"] == "made by a relay, of the events that the broker takes"
    assert report["on_broker"]["shards"] == 0
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0  # a look decides nothing
    assert f"No worker of a relay reads {redis_url}, so that no spans are made: start `otel-agentbus relay`." in (
        sentences(report, "hint")
    )
    events = told(tmp_path, {"AGENTBUS_BROKER": redis_url})["broker"]["written"]
    with HttpReceiver() as receiver:
        relay(redis_url, settings=Settings(endpoint=receiver.url), until_empty=True, group="gone")
        told(tmp_path, {"AGENTBUS_BROKER": redis_url, "RUN": "1"})
        with relaying(redis_url, receiver.url):
            assert wait_until(lambda: not lag(redis_url))
            code, report = doctor(monkeypatch, redis_url)
    groups = {
        group["name"]: (group["lag"], group["trimmed"], group["owned"]) for group in report["on_broker"]["groups"]
    }
    assert (code, groups) == (0, {"gone": (events, 0, 0), "relay": (0, 0, 8)})
    hints = [sentence for sentence in sentences(report, "hint") if "wait in the broker" in sentence]
    assert "; ".join(hints) == (
        f"{events} events wait in the broker for the group gone, which no worker is of: start one (--group gone), or "
        "`otel-agentbus relay --forget-group gone`."
    )
    people = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"}).output
    assert f"  {redis_url}: answers, 8 shards\n  spans: made by a relay, none by this process\n" in people


def test_doctor_fails_where_the_broker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = doctor(monkeypatch, "redis://:secret@127.0.0.1:9/0")
    assert code == 1
    [problem] = sentences(report, "problem")
    assert problem.startswith("The broker redis://***@127.0.0.1:9/0 does not answer: ")
    assert "secret" not in json.dumps(report)


def test_a_group_that_nobody_works_for_is_forgotten_and_holds_nothing_back(redis_url: str, tmp_path: Path) -> None:
    def forget(group: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["relay", "--from", redis_url, "--forget-group", group])
        return result.exit_code, result.output

    def entries() -> int:
        return sum(client.xlen(key) for key in client.keys("{agentbus:*}:events"))

    with redis.Redis.from_url(redis_url) as client, HttpReceiver() as receiver:
        relay(redis_url, settings=Settings(endpoint=receiver.url), until_empty=True, group="gone")
        told(tmp_path, {"AGENTBUS_BROKER": redis_url})
        with relaying(redis_url, receiver.url):
            assert wait_until(lambda: not lag(redis_url))
            assert entries() == lag(redis_url, "gone") > 0
            code, said = forget("relay")
            assert (code, "own 8 shards: end them" in " ".join(said.split())) == (2, True)
            assert forget("gone") == (
                0,
                "The group gone is forgotten: what it had not read is held back for it no longer.\n",
            )
            assert client.keys("*:gone:*") == []
            told(tmp_path, {"AGENTBUS_BROKER": redis_url, "RUN": "1"})
            assert wait_until(lambda: not lag(redis_url) and entries() == 0), entries()
        assert forget("gone")[0] == 2
