"""From the pump to a real Redis: what arrives, in which order, and what becomes of it while Redis is away."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from otel_agentbus import Settings
from otel_agentbus.events import AgentStart, Event, LlmResponse
from otel_agentbus.feeding import Feed
from otel_agentbus.journal.redis import Entry, RedisJournal
from otel_agentbus.recording import Opening, read_record
from otel_agentbus.telemetry.accounts import Account
from otel_agentbus.telemetry.told_accounts import account_told
from otel_agentbus.telemetry.usage import Usage
from otel_agentbus.testing import wait_until

from ..receivers import in_a_process_of_its_own
from .conftest import _lifetime, redis_binary
from .redis_server import Redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    """A server that the test may stop."""
    binary = redis_binary()
    (tmp_path / "redis").mkdir()
    yield from _lifetime(lambda: Redis(binary, tmp_path / "redis"))


def feed(url: str, spool: Path | str, source: str = "s", **options: Any) -> Feed:
    made = Feed(Settings(broker=url, spool_dir=str(spool), **options), lambda: Opening(source=source))
    made.start()
    return made


def started(number: int, source: str = "s", trees: int = 20) -> AgentStart:
    root = f"root-{number % trees}"
    return AgentStart(agent="a", invocation_id=f"i{number}", root_invocation_id=root, source=source, seq=number)


def give(feed: Feed, events: range, source: str = "s") -> None:
    for number in events:
        feed(started(number, source))


def arrived(url: str, shards: int = 8) -> list[list[Entry]]:
    """What stands in each shard."""
    log = RedisJournal(url, shards=shards, group="looking")
    leases = [log.shard(number).claim("looking", 60) for number in range(shards)]
    found = [[] if lease is None else lease.read(1_000_000) for lease in leases]
    for lease in leases:
        if lease is not None:
            lease.release()
    log.close()
    return found


def numbers(entries: list[Entry], source: str = "s") -> list[int]:
    """The events of a source as a reader takes them: each once, and none that is not beyond the mark."""
    mark, found = -1, []
    for entry in entries:
        event, _ = read_record(entry.data)
        assert entry.source == event.source
        if entry.source == source and event.seq is not None and event.seq > mark:
            mark = event.seq
            found.append(mark)
    return found


def all_numbers(url: str, source: str = "s") -> list[int]:
    return sorted(number for shard in arrived(url) for number in numbers(shard, source))


def adds_up(told: dict[str, Any]) -> bool:
    """Whether each event that was given, or taken over, is in one place."""
    places = told["written"], told["waiting"], told["kept"], told["duplicates"], *told["dropped"].values()
    return bool(told["given"] + told["adopted"] == sum(places))


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_events_arrive_in_order_with_their_trees_their_accounts_and_what_describes_them(
    redis_url: str, tmp_path: Path
) -> None:
    fed = feed(redis_url, tmp_path)
    give(fed, range(1, 300))
    fed(started(0))  # a thread was kept waiting between its number and the ring
    answer = LlmResponse(
        model_provider="p", model="m", duration=0.5, success=True, source="s", seq=300, root_invocation_id="root-1"
    )
    answer.account = Account(Usage(1, 2, None, None, None), 0.1 + 0.2, "priced")
    fed(answer)
    fed(Event(source="s", seq=301))
    assert fed.flush(soon())
    found = arrived(redis_url)
    assert all(numbers(shard) == sorted(number for number in range(302) if number in numbers(shard)) for shard in found)
    assert all_numbers(redis_url) == list(range(302))
    keys = {entry.key: number for number, shard in enumerate(found) for entry in shard}
    assert keys.keys() == {f"root-{number}" for number in range(20)} | {"@s"}
    [last] = [entry for shard in found for entry in shard if b"llm.response" in entry.data]
    assert read_record(last.data, account_told)[0].account == answer.account
    opening = Opening.read(RedisJournal(redis_url).openings("s"))
    assert opening is not None
    assert opening.source == "s"
    assert fed.health() == {
        "broker": redis_url,
        "given": 302,
        "adopted": 0,
        "written": 302,
        "waiting": 0,
        "kept": 0,
        "duplicates": 0,
        "dropped": {},
        "failures": {},
    }
    assert fed.close(soon())
    fed(started(302))
    assert fed.health()["dropped"] == {"closed": 1}
    assert adds_up(fed.health())


@pytest.mark.parametrize("way", ["kill", "pause", "full", "read only", "password", "wrong type"])
def test_what_redis_does_not_take_waits_and_arrives_in_order(server: Redis, tmp_path: Path, way: str) -> None:
    fed = feed(server.url, tmp_path / "spool", queue_size=2_000)
    give(fed, range(100))
    assert fed.flush(soon())
    client: Any = redis.Redis.from_url(server.url)
    away(server, client, way)
    for start in range(100, 6_100, 500):  # more than fits into memory
        give(fed, range(start, start + 500))
        assert wait_until(lambda: fed.health()["waiting"] <= 1_500, 20)
    assert not fed.flush(soon(0.1))
    told = fed.health()
    assert told["dropped"] == {}
    assert told["kept"] > 0 or way == "wrong type"
    back(server, client, way)
    assert fed.flush(soon(30))
    expected = range(100, 6_100) if way == "kill" else range(6_100)  # it comes back empty
    assert all_numbers(server.url) == list(expected)
    told = fed.health()
    assert (told["waiting"], told["kept"], told["dropped"], adds_up(told)) == (0, 0, {}, True)
    reasons = {"kill": "unreachable", "pause": "timeout", "full": "memory full", "read only": "read only"}
    assert told["failures"][{**reasons, "password": "not allowed", "wrong type": "error"}[way]] > 0
    assert fed.close(soon())
    client.close()


def away(server: Redis, client: Any, way: str) -> None:
    if way == "kill":
        server.kill()
    elif way == "pause":
        server.pause()
    elif way == "full":
        client.config_set("maxmemory", 1)
    elif way == "read only":
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    elif way == "password":
        client.config_set("requirepass", "sesame")
        client.execute_command("AUTH", "sesame")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    else:
        for number in range(8):
            client.rename(f"{{agentbus:{number}}}:events", f"kept:{number}")
            client.set(f"{{agentbus:{number}}}:events", "no stream")


def back(server: Redis, client: Any, way: str) -> None:
    if way == "kill":
        server.start()
    elif way == "pause":
        server.go_on()
    elif way == "full":
        client.config_set("maxmemory", 0)
    elif way == "read only":
        client.execute_command("REPLICAOF", "NO", "ONE")
    elif way == "password":
        client.config_set("requirepass", "")
    else:
        for number in range(8):
            client.rename(f"kept:{number}", f"{{agentbus:{number}}}:events")


def test_what_one_shard_does_not_take_is_not_told_to_the_others_again_and_again(server: Redis, tmp_path: Path) -> None:
    fed = feed(server.url, tmp_path / "spool", queue_size=200)
    client: Any = redis.Redis.from_url(server.url)
    broken = "{agentbus:3}:events"
    client.set(broken, "no stream")
    given = 0
    while not fed.health()["kept"]:
        give(fed, range(given, given + 100))
        given += 100
        assert wait_until(lambda: fed.health()["waiting"] <= 100)
    failures = fed.health()["failures"]["error"]
    assert wait_until(lambda: fed.health()["failures"]["error"] >= failures + 3, 30)
    streams = [client.xlen(f"{{agentbus:{number}}}:events") for number in range(8) if number != 3]
    assert sum(streams) < given
    client.delete(broken)
    assert fed.flush(soon(30))
    assert all_numbers(server.url) == list(range(fed.health()["given"]))
    assert adds_up(fed.health())
    assert fed.close(soon())
    client.close()


def test_without_a_disk_what_does_not_fit_is_counted(server: Redis) -> None:
    server.kill()
    fed = feed(server.url, "off", queue_size=500)
    give(fed, range(2_000))
    assert wait_until(lambda: fed.health()["failures"] != {})
    told = fed.health()
    assert told["waiting"] + told["dropped"]["queue_full"] == 2_000
    assert told["waiting"] <= 500 + 512
    assert not fed.close(soon(0.5))
    told = fed.health()
    assert (told["waiting"], told["kept"]) == (0, 0)
    assert told["dropped"]["queue_full"] + told["dropped"]["no_spool"] == 2_000
    assert adds_up(told)


@pytest.mark.parametrize("way", ["kill", "pause"])
def test_what_is_left_at_the_end_is_sent_by_the_next_process(server: Redis, tmp_path: Path, way: str) -> None:
    first = feed(server.url, tmp_path / "spool", "s")
    give(first, range(1_000))
    assert first.flush(soon())
    away(server, redis.Redis.from_url(server.url), way)
    give(first, range(1_000, 4_000))
    begun = time.monotonic()
    assert not first.close(soon(1.0))
    assert time.monotonic() - begun < 5
    told = first.health()
    assert (told["waiting"], told["kept"], told["dropped"], adds_up(told)) == (0, 3_000, {}, True)
    back(server, redis.Redis.from_url(server.url), way)
    with redis.Redis.from_url(server.url) as client:
        client.delete("agentbus:opening:s")
    second = feed(server.url.replace("//", "//default:@"), tmp_path / "spool", "t")
    give(second, range(10), "t")
    assert wait_until(lambda: second.health()["written"] >= 3_010, 20)
    assert second.flush(soon())
    assert all_numbers(server.url, "s") == list(range(1_000 if way == "kill" else 0, 4_000))
    assert all_numbers(server.url, "t") == list(range(10))
    opening = Opening.read(RedisJournal(server.url).openings("s"))
    assert opening is not None
    assert opening.source == "s"
    told = second.health()
    assert (told["given"], told["adopted"], told["written"], adds_up(told)) == (10, 3_000, 3_010, True)
    assert second.close(soon())
    assert [path for path in (tmp_path / "spool").rglob("*") if path.suffix == ".seg"] == []


def test_a_process_that_is_killed_leaves_what_was_on_disk(server: Redis, tmp_path: Path) -> None:
    server.kill()
    code = f"""
        import os, sys
        from otel_agentbus import Settings
        from otel_agentbus.events import AgentStart
        from otel_agentbus.feeding import Feed
        from otel_agentbus.recording import Opening
        from otel_agentbus.testing import wait_until
        settings = Settings(broker={server.url!r}, spool_dir={str(tmp_path)!r}, queue_size=1000)
        feed = Feed(settings, lambda: Opening(source="s"))
        feed.start()
        for number in range(3000):
            feed(AgentStart(agent="a", invocation_id=str(number), root_invocation_id="r", source="s", seq=number))
            if number % 250 == 0:
                assert wait_until(lambda: feed.health()["waiting"] <= 500, 20)
        assert wait_until(lambda: feed.health()["waiting"] <= 500, 20)
        print(feed.health()["kept"], flush=True)
        os._exit(0)
    """
    kept = in_a_process_of_its_own(code)
    assert kept >= 2_500
    server.start()
    fed = feed(server.url, tmp_path, "t")
    assert wait_until(lambda: fed.health()["written"] >= kept, 20)
    assert all_numbers(server.url) == list(range(kept))
    opening = Opening.read(RedisJournal(server.url).openings("s"))
    assert opening is not None
    assert opening.pid != os.getpid()
    assert fed.close(soon())


def test_a_child_of_a_fork_is_a_source_of_its_own(redis_url: str, tmp_path: Path) -> None:
    code = f"""
        import os, time
        from otel_agentbus import Settings
        from otel_agentbus.events import AgentStart
        from otel_agentbus.feeding import Feed
        from otel_agentbus.recording import Opening
        source = "parent"
        feed = Feed(Settings(broker={redis_url!r}, spool_dir={str(tmp_path)!r}), lambda: Opening(source=source))
        feed.start()
        def give(first, last):
            for number in range(first, last):
                event = AgentStart(agent="a", invocation_id=str(number), root_invocation_id="r")
                event.source, event.seq = source, number
                feed(event)
        give(0, 500)
        assert feed.flush(time.monotonic() + 10)
        give(500, 1000)
        child = os.fork()
        if child == 0:
            source = "child"
            feed.after_fork()
            give(0, 700)
            os._exit(0 if feed.close(time.monotonic() + 10) and feed.health()["written"] == 700 else 1)
        give(1000, 1200)
        assert os.waitpid(child, 0)[1] == 0
        assert feed.close(time.monotonic() + 10)
        print(feed.health()["written"])
    """
    assert in_a_process_of_its_own(code) == 1_200
    found = Counter(entry.source for shard in arrived(redis_url) for entry in shard)
    assert found == {"parent": 1_200, "child": 700}
    assert all_numbers(redis_url, "child") == list(range(700))
    log = RedisJournal(redis_url)
    pids = {source: (Opening.read(log.openings(source)) or Opening(source="?")).pid for source in ("parent", "child")}
    assert len(set(pids.values())) == 2
