"""The journal on a real Redis: who owns a shard, what an acknowledgement does, and what failures leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis

from otel_agentbus.events import AgentEnd, AgentStart, DomainEvent
from otel_agentbus.journal.redis import Kept, Lease, LeaseLost, RedisJournal, shard_of
from otel_agentbus.recording import Recorder, read_record
from otel_agentbus.testing import wait_until

from ..receivers import in_a_process_of_its_own
from .conftest import _lifetime, redis_binary
from .redis_journals import claimed, filled, journal
from .redis_server import Redis


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


# -- the format ------------------------------------------------------------------------------------------------------


def test_a_key_has_the_shard_that_the_format_says() -> None:
    assert [shard_of(key, 8) for key in ("", "run-1", "run-2", "ü", "\ud800")] == [4, 7, 4, 7, 2]
    assert [shard_of("run-1", shards) for shards in (1, 2, 3, 1024)] == [0, 1, 1, 903]


def test_the_records_of_a_key_stay_in_one_stream_in_order(redis_url: str, client: Any) -> None:
    log = RedisJournal(redis_url, shards=4)
    keys = [f"run-{n % 7}" for n in range(50)]
    position = log.append_many([b"%d" % n for n in range(50)], keys, ["s"] * 50)
    found = {
        shard: [
            (each[b"k"].decode(), each[b"s"], int(each[b"d"]))
            for _, each in client.xrange(f"{{agentbus:{shard}}}:events")
        ]
        for shard in range(4)
    }
    assert found == {
        shard: [(key, b"s", n) for n, key in enumerate(keys) if shard_of(key, 4) == shard] for shard in range(4)
    }
    assert position.endswith(f"@{shard_of(keys[-1], 4):04d}")


def test_the_number_of_shards_is_what_the_first_has_said(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert RedisJournal(redis_url, shards=4).shards == 4
    other = RedisJournal(redis_url, shards=16)
    for _ in range(3):
        other.append(b"x", key="run-1")
    assert other.shards == 4
    assert other.shard(shard_of("run-1", 4)).lag() == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"agentbus:meta has 4 shards in {other.url}, and not 16: it keeps them"
    ]


def test_the_opening_is_there_before_the_first_record_and_again_after_a_loss(redis_url: str, client: Any) -> None:
    log = journal(redis_url, opening=lambda: ("s", b"who"))
    log.append(b"1")
    assert log.openings("s") == b"who"
    assert log.openings("t") is None
    assert 600_000 < client.ttl("agentbus:opening:s") <= 604_800
    [(_, entry)] = client.xrange("{agentbus:0}:events")
    assert entry == {b"k": b"", b"s": b"s", b"d": b"1"}
    client.flushall()
    log.append(b"2")
    assert log.openings("s") == b"who"
    assert client.hgetall("agentbus:meta") == {b"shards": b"1"}


class OnSocket(Redis):
    """A server that listens on a socket of the file system."""

    def command(self) -> list[str]:
        return [*super().command(), "--unixsocket", str(self.directory / "redis.sock")]


def test_a_socket_of_the_file_system_is_a_way_to_redis(tmp_path: Path) -> None:
    binary = redis_binary()
    with TemporaryDirectory() as directory:  # the path of a socket has to be short
        for _ in _lifetime(lambda: OnSocket(binary, Path(directory))):
            log = journal(f"unix://{directory}/redis.sock?db=0")
            log.append(b"1")
            assert [record.data for record in log.read()] == [b"1"]
            log.close()


# -- leases ----------------------------------------------------------------------------------------------------------


def test_two_processes_that_claim_the_same_shards_share_them(redis_url: str) -> None:
    code = f"""
        import json
        from otel_agentbus.journal.redis import RedisJournal
        log = RedisJournal({redis_url!r}, shards=64)
        leases = [log.shard(n).claim("process", 60) for n in range(64)]
        print(json.dumps([lease is not None for lease in leases]))
    """
    found: list[list[bool]] = []
    threads = [threading.Thread(target=lambda: found.append(in_a_process_of_its_own(code))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one != other for one, other in zip(*found, strict=True)] == [True] * 64


def test_a_lease_that_is_not_renewed_is_taken_over_within_its_time(redis_url: str) -> None:
    log = journal(redis_url)
    first = log.shard(0).claim("first", 0.3)
    assert first is not None
    assert log.shard(0).owner() == "first"
    taken: list[Lease] = []

    def take() -> bool:
        lease = log.shard(0).claim("second one", 60)
        taken.extend([] if lease is None else [lease])
        return lease is not None

    assert not take()
    assert first.renew()
    assert wait_until(take)
    assert log.shard(0).owner() == "second one"
    assert (first.epoch, taken[0].epoch) == (1, 2)
    assert not first.renew()
    first.release()
    assert log.shard(0).owner() == "second one"


def test_a_lease_that_has_run_out_but_is_nobody_elses_still_counts(redis_url: str, client: Any) -> None:
    log = journal(redis_url)
    filled(log, 3)
    lease = claimed(log)
    entries = lease.read(3)
    client.delete("{agentbus:0}:relay:owner")
    lease.ack(entries[1].id)
    assert log.shard(0).owner() == "w"
    assert log.shard(0).lag() == 1


def test_a_stale_owner_changes_nothing(redis_url: str, client: Any) -> None:
    log = journal(redis_url)
    filled(log, 3)
    stale = claimed(log, "stale")
    entries = stale.read(3)
    client.delete("{agentbus:0}:relay:owner")
    claimed(log, "next").read(1)
    before = sorted((key, client.dump(key)) for key in client.scan_iter())
    with pytest.raises(LeaseLost):
        stale.ack(entries[-1].id, Kept(grown={"k": entries}, over=["z"], counters={"c": {"n": 1}}, letters=[b"x"]))
    with pytest.raises(LeaseLost):
        stale.read(1)
    assert sorted((key, client.dump(key)) for key in client.scan_iter()) == before


def test_a_store_that_was_emptied_has_no_leases(redis_url: str, client: Any) -> None:
    log = journal(redis_url)
    filled(log, 3)
    lease = claimed(log)
    entries = lease.read(3)
    client.flushall()
    assert not lease.renew()
    with pytest.raises(LeaseLost):
        lease.ack(entries[0].id)
    filled(log, 2)
    assert [entry.data for entry in claimed(log).read(9)] == [b"0", b"1"]


def test_a_group_that_comes_later_begins_with_what_is_there_and_holds_it(redis_url: str, client: Any) -> None:
    log, late = journal(redis_url), journal(redis_url, group="late")
    filled(log, 6)
    lease = claimed(log)
    lease.ack(lease.read(4)[-1].id)
    assert client.xlen("{agentbus:0}:events") == 2
    other = claimed(late)
    assert (late.shard(0).lag(), late.shard(0).trimmed()) == (2, 0)
    lease.ack(lease.read(4)[-1].id)
    assert client.xlen("{agentbus:0}:events") == 2
    assert [entry.data for entry in other.read(9)] == [b"4", b"5"]


def test_workers_know_of_each_other_and_take_turns(redis_url: str) -> None:
    log = journal(redis_url)
    for worker in ("b", "a"):
        log.heartbeat(worker)
    assert log.workers(10) == ["a", "b"]
    assert log.workers(-1) == []
    log.leave("a")
    assert log.workers(10) == ["b"]
    assert [log.turn("metrics", worker, 60) for worker in ("a", "b", "a")] == [True, False, True]


# -- acknowledging -----------------------------------------------------------------------------------------------------


def test_an_acknowledgement_of_very_much_is_done_at_once(redis_url: str, client: Any) -> None:
    log = journal(redis_url)
    for _ in range(5):
        filled(log, 2_000)
    lease = claimed(log)
    entries = lease.read(10_000)
    trees = {f"t{n}": entries[n * 3 : n * 3 + 3] for n in range(1_500)} | {"big": entries[4_500:]}
    lease.ack(
        entries[-1].id,
        Kept(
            grown=trees,
            over=[f"over {n}" for n in range(9_000)],
            marks={f"s{n}": n for n in range(9_000)},
            counters={f"c{n}": {"n": n} for n in range(9_000)},
            letters=[b"%d" % n for n in range(9_000)],
        ),
    )
    lease.ack(lease.position, Kept(dropped=[f"t{n}" for n in range(0, 1_500, 2)]))
    lease.release()
    lease = claimed(log)
    assert lease.tree("big") == [entry._replace(key="big") for entry in entries[4_500:]]
    assert [lease.tree("t1"), lease.tree("t0")] == [[e._replace(key="t1") for e in entries[3:6]], []]
    assert lease.open_trees() == 751
    assert lease.is_over("over 8999")
    assert lease.marks(["s8999", "s9000"]) == {"s8999": 8999}
    assert lease.counters()["c8999"] == {"n": 8999}
    assert log.shard(0).letters() == [b"%d" % n for n in range(8_000, 9_000)]
    assert client.xlen("{agentbus:0}:events") == 0


def test_trees_are_found_by_when_they_were_last_heard_of(redis_url: str) -> None:
    log = journal(redis_url)
    filled(log, 1)
    lease = claimed(log)
    [entry] = lease.read(1)
    lease.ack(entry.id, Kept(grown={"a": [entry], "b": [entry]}, heard={"a": 1_000, "c": 2_000}))
    assert lease.idle_trees(2_000, 9) == ["a"]
    assert lease.idle_trees(2_001, 9) == ["a", "c"]
    assert lease.idle_trees(entry.ms + 1, 9) == ["a", "c", "b"]
    assert lease.idle_trees(entry.ms + 1, 1) == ["a"]
    lease.ack(lease.position, Kept(heard={"a": 3_000}, over=["c"], dropped=["b"]))
    assert lease.idle_trees(entry.ms, 9) == ["a"]


def test_a_tree_that_was_over_and_has_begun_anew_is_open_with_what_has_grown(redis_url: str) -> None:
    log = journal(redis_url)
    filled(log, 4)
    lease = claimed(log)
    first, second, third, fourth = (entry._replace(key="a") for entry in lease.read(4))
    lease.ack(first.id, Kept(grown={"a": [first], "b": [first]}))
    lease.ack(third.id, Kept(grown={"a": [third], "b": [second]}, heard={"a": 5}, over=["a"], dropped=["b"]))
    assert (lease.tree("a"), lease.tree("b")) == ([third], [second._replace(key="b")])
    assert (lease.are_over(["a", "b"]), lease.open_trees(), lease.idle_trees(6, 9)) == ({"a"}, 2, ["a"])
    lease.ack(fourth.id, Kept(over=["a", "b"]))
    assert (lease.tree("a"), lease.open_trees()) == ([], 0)


def test_quiet_sources_and_trees_that_are_over_are_forgotten_in_time(redis_url: str, client: Any) -> None:
    log = journal(redis_url, remember=10.0)
    client.xadd("{agentbus:0}:events", {"k": "k", "s": "s", "d": "1"}, id="1000000-0")
    client.xadd("{agentbus:0}:events", {"k": "k", "s": "s", "d": "2"}, id="1010001-0")
    lease = claimed(log)
    first, second = lease.read(9)
    lease.ack(first.id, Kept(over=["old"], marks={"old": 1, "heard": 1}))
    lease.ack(second.id, Kept(over=["new"], marks={"heard": 2}))
    assert lease.are_over(["old", "new"]) == {"new"}
    assert lease.marks(["old", "heard"]) == {"heard": 2}
    assert client.zrange("{agentbus:0}:relay:marked", 0, -1) == [b"heard"]


def test_counters_are_exact_decimals_and_ints(redis_url: str) -> None:
    log = journal(redis_url)
    lease = claimed(log)
    for usd in ("0.1", "0.2", "1e-9", "123456789012345678901234567890"):
        lease.ack(lease.position, Kept(counters={"a\x00b": {"n": 2**62, "usd": usd}}))
    told = {"a\x00b": {"n": 2**64, "usd": "123456789012345678901234567890.300000001"}}
    assert lease.counters() == told
    lease.release()
    claimed(log).ack("0-0", Kept(counters={"a\x00b": {"n": -(2**64)}, "c": {"usd": "5"}}))
    assert log.shard(0).counters() == {"a\x00b": {**told["a\x00b"], "n": 0}, "c": {"usd": "5.0"}}


def test_only_what_was_read_can_be_acknowledged(redis_url: str) -> None:
    log = journal(redis_url)
    filled(log, 3)
    lease = claimed(log)
    entries = lease.read(2)
    lease.ack(entries[1].id)
    for position in (entries[0].id, "9999999999999-0", "x"):
        with pytest.raises(ValueError, match="no entry of shard 0 that was read"):
            lease.ack(position)


def test_the_length_is_bounded_and_what_is_lost_is_counted(redis_url: str, client: Any) -> None:
    log = journal(redis_url, max_events=1_000)
    for _ in range(30):
        filled(log, 100)
    length = client.xlen("{agentbus:0}:events")
    assert 1_000 <= length < 1_200
    lease = claimed(log)
    for _ in range(20):
        filled(log, 100)
    gone = 5_000 - client.xlen("{agentbus:0}:events")
    assert log.shard(0).trimmed() == gone - (3_000 - length)  # a group that comes first begins with what is there
    entries = lease.read(500)
    lease.ack(entries[-1].id)
    lease.release()
    assert claimed(log).read(1)[0].data == b"%d" % ((int(entries[-1].data) + 1) % 100)
    assert log.shard(0).trimmed() == gone - (3_000 - length)
    assert log.shard(0).lag() == 5_000 - gone - 500


# -- as any journal --------------------------------------------------------------------------------------------------


def test_a_recorder_writes_each_event_with_its_key_and_what_is_read_is_the_groups_own(redis_url: str) -> None:
    log = RedisJournal(redis_url, shards=3)
    recorder = Recorder(log)
    told = [
        AgentStart(agent="a", invocation_id="i", root_invocation_id="r", source="s", seq=0),
        AgentStart(agent="b", invocation_id="j", root_invocation_id="r", source="s", seq=1),
        DomainEvent(name="sold", data={}, source="s", seq=2),
        AgentEnd(agent="b", invocation_id="j", source="s", seq=3),
    ]
    for event in told:
        recorder(event)
    assert recorder.flush()
    assert recorder.health() == {"written": 4, "waiting": 0, "failed": {}}
    assert recorder.finish()
    reader = RedisJournal(redis_url, shards=3)
    [lease] = [lease for n in range(3) if (lease := reader.shard(n).claim("w", 60)) and reader.shard(n).lag() == 3]
    assert [(entry.key, entry.source) for entry in lease.read(9)] == [("r", "s")] * 3
    for n in range(3):
        reader.shard(n)._asking.ask("DEL", f"{{agentbus:{n}}}:relay:owner")
    records = list(reader.read())
    assert sorted(read_record(record.data)[0].seq or 0 for record in records) == [0, 1, 2, 3]
    assert list(reader.read(records[-1].position)) == [
        r for r in reader.read() if r.position[-4:] != records[-1].position[-4:]
    ]
    for record in records:
        reader.ack(record.position)
    assert list(reader.read()) == []
    reader.close()
    assert list(RedisJournal(redis_url).read()) == []


# -- a store that has lost something ---------------------------------------------------------------------------------


def test_a_lease_ends_where_the_store_has_lost_an_acknowledgement_and_nothing_that_is_there_is_left_out(
    redis_url: str, client: Any
) -> None:
    log = journal(redis_url)
    filled(log, 10)
    lease = claimed(log)
    first = lease.read(5)
    lease.ack(first[-1].id, Kept(grown={"k": first}))
    before = {key: client.dump(key) for key in client.keys("*")}
    second = lease.read(5)
    lease.ack(second[-1].id, Kept(grown={"k": second}))
    client.flushall()
    for key, value in before.items():  # as a replica that lagged behind, or a file that was not written to the end
        client.restore(key, 0, value)
    log.append_many([b"later"], ["k"], ["s"])
    with pytest.raises(LeaseLost):
        lease.read(10)
    with pytest.raises(LeaseLost):
        lease.ack(lease.position, Kept(dropped=["k"]))
    lease.release()
    again = claimed(log)
    assert [entry.data for entry in again.tree("k")] == [b"0", b"1", b"2", b"3", b"4"]
    assert [entry.data for entry in again.read(10)] == [b"5", b"6", b"7", b"8", b"9", b"later"]


def test_a_stream_that_somebody_has_deleted_begins_anew_and_is_counted_right(redis_url: str, client: Any) -> None:
    log = journal(redis_url)
    filled(log, 10)
    lease = claimed(log)
    lease.ack(lease.read(100)[-1].id)
    client.delete("{agentbus:0}:events")
    filled(log, 5)
    assert log.shard(0).lag() == 5
    lease.ack(lease.read(100)[-1].id)
    filled(log, 3)
    assert (log.shard(0).lag(), log.shard(0).trimmed()) == (3, 0)
    lease.ack(lease.read(100)[-1].id)
    assert log.shard(0).lag() == 0
