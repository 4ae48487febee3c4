"""Events in a real Redis, as other programs hear them: on a Pub/Sub channel and in a stream."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

import otel_agentbus as agentbus
from otel_agentbus import Bus
from otel_agentbus.events import DomainEvent
from otel_agentbus.forwarding import forward_to_redis
from otel_agentbus.testing import capture, wait_until

from .redis_server import Redis, installed

CHANNEL = "crm:events"
ROOT = Path(__file__).parents[2]


class Listener:
    """Another program, which hears a channel with redis-py alone."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url)
        self._pubsub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(CHANNEL)
        assert wait_until(lambda: self.client.pubsub_numsub(CHANNEL)[0][1] == 1)
        self.raw: list[bytes] = []

    def hears(self, number: int) -> list[bytes]:
        """All messages, once there are so many."""

        def heard() -> bool:
            found = self._pubsub.get_message(timeout=0.05)
            if found is not None:
                self.raw.append(found["data"])
            return len(self.raw) >= number

        assert wait_until(heard, 10.0), self.raw
        return self.raw

    def close(self) -> None:
        self._pubsub.close()
        self.client.close()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with capture(strict=False) as seen:
        yield seen.bus


@pytest.fixture
def listener(redis_url: str) -> Iterator[Listener]:
    listening = Listener(redis_url)
    yield listening
    listening.close()


def test_a_channel_carries_llm_events_beside_the_domain_events_of_the_application(
    redis_url: str, bus: Bus, listener: Listener
) -> None:
    with forward_to_redis(redis_url, channel=CHANNEL, names="llm"):
        bus.publish("lead_received", {"email": "ada@example.org"})
        with agentbus.agent("lead_qualification", conversation_id="lead-7") as run:
            with run.llm(provider="openai", model="gpt") as call:
                call.record(input_tokens=20, output_tokens=10)
            with run.tool("score", tool_call_id="c1", arguments={"lead": "Ada"}) as tool:
                tool.record(result="87")
    messages = [json.loads(message) for message in listener.hears(6)]
    assert [message["type"] for message in messages] == [
        *("lead_received", "llm_request", "llm_response", "llm_tool_call", "llm_tool_result", "llm_complete"),
    ]
    first, last = messages[0], messages[-1]
    assert (first["agent"], first["data"]) == (None, {"email": "ada@example.org"})
    assert last["agent"] == "lead_qualification"
    assert last["data"]["tokens"] == 30
    assert datetime.now(UTC).timestamp() - datetime.fromisoformat(last["timestamp"]).timestamp() < 60
    assert {message["agentbus"]["root_invocation_id"] for message in messages[1:]} == {run.id}
    assert last["agentbus"]["conversation_id"] == "lead-7"
    assert [message["agentbus"]["seq"] for message in messages] == sorted(m["agentbus"]["seq"] for m in messages)
    assert b"Ada" not in b"".join(listener.raw[1:])


def test_a_stream_keeps_what_nobody_has_heard_yet_and_not_more_than_its_bound(redis_url: str, bus: Bus) -> None:
    with forward_to_redis(redis_url, "lead_*", stream="crm:stream", max_entries=100):
        for number in range(1000):
            bus.publish("lead_scored", {"number": number})
        bus.publish("other")
        assert bus.flush()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        entries = client.xrange("crm:stream")
    assert 100 <= len(entries) <= 300
    last = entries[-1][1]
    assert (last["type"], json.loads(last["data"])) == ("lead_scored", {"number": 999})
    assert json.loads(last["agentbus"])["source"] == bus.source


def test_a_redis_that_is_away_costs_the_events_of_that_time_and_nothing_else(
    tmp_path: Path, bus: Bus, redis_server: Redis
) -> None:
    binary = installed()
    assert binary is not None
    server = Redis(binary, tmp_path)
    server.start()
    try:
        with forward_to_redis(server.url, stream="s", timeout=0.5) as forwarding:
            bus.publish("one")
            assert bus.flush()
            server.kill()
            bus.publish("two")
            bus.flush()
            assert wait_until(lambda: forwarding.failed == 1)
            server.start()
            bus.publish("three")
            assert wait_until(lambda: forwarding.sent == 2)
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            assert [fields["type"] for _, fields in client.xrange("s")] == ["three"]
    finally:
        server.kill()


def test_a_redis_that_hangs_never_holds_up_the_agent(redis_server: Redis, redis_url: str, bus: Bus) -> None:
    with forward_to_redis(redis_url, channel=CHANNEL, timeout=0.2, queue_size=10) as forwarding:
        redis_server.pause()
        try:
            for number in range(100):
                bus.publish(f"e{number}")
            assert wait_until(lambda: forwarding.failed > 0)
        finally:
            redis_server.go_on()
    assert forwarding.sent + forwarding.failed + forwarding.dropped >= 100


def test_what_another_process_says_is_heard_here_and_no_message_goes_round(
    redis_url: str, bus: Bus, listener: Listener
) -> None:
    heard: list[str] = []
    bus.subscribe(lambda event: heard.append(event.name), DomainEvent)
    program = (
        "import sys, otel_agentbus as a; from otel_agentbus.forwarding import forward_to_redis\n"
        f"with a.connect() as bus, forward_to_redis(sys.argv[1], channel={CHANNEL!r}):\n"
        "    bus.publish('theirs', {'n': 1})\n"
    )
    with forward_to_redis(redis_url, channel=CHANNEL) as forwarding:
        bus.publish("ours")
        subprocess.run([sys.executable, "-c", program, redis_url], cwd=ROOT, check=True, timeout=60)
        listener.client.publish(CHANNEL, json.dumps({"type": "plain", "agent": "x", "data": {}, "timestamp": "t"}))
        for odd in (b"no JSON", b"[]", b'{"type": 1}', b'{"data": {}}'):
            listener.client.publish(CHANNEL, odd)
        assert [forwarding.read(message) for message in listener.hears(7)] == [
            False,
            True,
            True,
            False,
            False,
            False,
            False,
        ]
        bus.publish("last")
        assert bus.flush()
        assert forwarding.returned == 2
    assert heard == ["ours", "theirs", "plain", "last"]
    (last,) = listener.hears(8)[7:]
    assert json.loads(last)["type"] == "last"
