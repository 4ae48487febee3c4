"""What the tests of the journal on Redis share."""

from __future__ import annotations

from typing import Any

from otel_agentbus.journal.redis import Lease, RedisJournal


def journal(url: str, **options: Any) -> RedisJournal:
    return RedisJournal(url, **{"shards": 1, "timeout": 1.0, **options})


def claimed(journal: RedisJournal, worker: str = "w") -> Lease:
    lease = journal.shard(0).claim(worker, 60)
    assert lease is not None
    return lease


def filled(journal: RedisJournal, number: int, key: str = "k", source: str = "s") -> None:
    journal.append_many([b"%d" % n for n in range(number)], [key] * number, [source] * number)
