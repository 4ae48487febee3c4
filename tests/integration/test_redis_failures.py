"""What the journal does when something is wrong with the real Redis: errors of the system, and nothing out of order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.journal.redis import Kept, RedisJournal, shard_of

from .conftest import _lifetime, redis_binary
from .redis_journals import claimed, filled, journal
from .redis_server import Redis


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Redis]:
    """A server that the test may stop, with what it needs to be alone for."""
    binary = redis_binary()
    yield from _lifetime(lambda: Redis(binary, tmp_path))


def test_a_full_redis_refuses_records_and_takes_acknowledgements(redis_url: str, client: Any) -> None:
    log = journal(redis_url)
    filled(log, 100)
    lease = claimed(log)
    entries = lease.read(100)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OSError, match="used memory > 'maxmemory'") as caught:
            log.append_many([b"x", b"y"])
        assert list(getattr(caught.value, "left", ())) == [0, 1]
        lease.ack(entries[-1].id, Kept(grown={"k": entries[:5]}, marks={"s": 1}, counters={"c": {"n": 1}}))
        assert lease.renew()
        lease.release()
        lease = claimed(log)
        log.heartbeat("w")
        assert log.workers(10) == ["w"]
        assert log.turn("metrics", "w", 10)
        assert (len(lease.tree("k")), lease.position) == (5, entries[-1].id)
        assert client.xlen("{agentbus:0}:events") == 0
    finally:
        client.config_set("maxmemory", 0)
    log.append(b"x")
    assert [entry.data for entry in lease.read(9)] == [b"x"]


def test_whatever_is_wrong_with_redis_is_an_os_error(own_server: Redis) -> None:
    log = RedisJournal(own_server.url, shards=2, timeout=0.3)
    log.append_many([b"1", b"2"], ["run-1", "run-2"])
    with redis.Redis.from_url(own_server.url) as client:
        client.delete(f"{{agentbus:{shard_of('run-1', 2)}}}:events")
        client.set(f"{{agentbus:{shard_of('run-1', 2)}}}:events", "no stream")
        with pytest.raises(OSError, match="WRONGTYPE") as caught:
            log.append_many([b"3", b"4", b"5"], ["run-1", "g", "run-1"])
        assert shard_of("g", 2) != shard_of("run-1", 2)
        assert list(getattr(caught.value, "left", ())) == [0, 2]
        client.delete(f"{{agentbus:{shard_of('run-1', 2)}}}:events")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(OSError, match="read only replica"):
            log.append(b"6", key="run-1")
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("requirepass", "sesame")
    log.close()
    with pytest.raises(OSError, match="Authentication required"):
        log.append(b"7", key="run-1")
    wrong = RedisJournal(own_server.url.replace("//", "//:opensesame@"))
    with pytest.raises(OSError, match=r"WRONGPASS|invalid username-password") as denied:
        wrong.append(b"7")
    assert "opensesame" not in str(denied.value)
    assert "opensesame" not in wrong.url
    right = RedisJournal(own_server.url.replace("//", "//:sesame@"), timeout=0.3)
    right.append(b"8", key="run-1")
    own_server.pause()
    with pytest.raises(OSError, match="Timeout"):
        right.append(b"9", key="run-1")
    own_server.go_on()
    right.append(b"10", key="run-1")
    own_server.kill()
    with pytest.raises(OSError, match=r"refused|closed|reset"):
        right.append(b"11", key="run-1")
    own_server.start()
    log.append(b"12", key="run-1")
    assert log.shard(shard_of("run-1", log.shards)).lag() == 1


def test_what_was_sent_again_comes_first_in_order_and_then_as_a_double(own_server: Redis) -> None:
    log = journal(own_server.url, timeout=0.2)
    sent = [b"%d" % n for n in range(40)]
    written = 0
    assert log.shards == 1
    own_server.pause()
    for _ in range(3):
        with pytest.raises(OSError, match="Timeout"):
            log.append_many(sent[:10])
    own_server.go_on()
    while written < len(sent):
        log.append_many(sent[written : written + 10])
        written += 10
    found = [entry.data for entry in claimed(log).read(1_000)]
    assert list(dict.fromkeys(found)) == sent
    assert len(found) > len(sent)


def test_without_redis_py_the_broker_is_refused_while_wiring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError) as caught:
        RedisJournal("redis://user:secret@localhost/0")
    assert str(caught.value) == (
        "The broker redis://***@localhost/0 cannot be spoken to without redis-py: install otel-agentbus[redis]."
    )


@pytest.mark.parametrize("url", ["redis://:secret@host:port/0", "http://secret@host", "localhost"])
def test_a_url_that_cannot_be_read_is_refused_while_wiring(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: write it like redis://localhost:6379/0") as caught:
        RedisJournal(url)
    assert "secret" not in str(caught.value)
