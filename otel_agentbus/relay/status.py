"""How a broker is: of each group and shard who owns it, what waits in it, and what it has lost."""

from __future__ import annotations

from dataclasses import dataclass

from ..journal.redis import RedisJournal


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard as one group of workers has it."""

    shard: int
    #: The worker that owns it now; None where none does.
    owner: str | None
    #: Events that are not acknowledged, and the seconds since the oldest of them came.
    lag: int
    oldest: float | None
    #: Trees that are open.
    open_runs: int
    #: Events that the bound on the length took before they were acknowledged.
    trimmed: int
    #: Batches of spans that an endpoint has refused for good.
    refused: int


def status_of(journal: RedisJournal) -> list[ShardStatus]:
    """The shards as the journal's group has them; nothing is claimed.

    Raises:
        OSError: Redis does not answer.

    """
    now_ms = journal.now_ms()
    found = []
    for number in range(journal.shards):
        shard = journal.shard(number)
        oldest_ms = shard.oldest_ms()
        found.append(
            ShardStatus(
                shard=number,
                owner=shard.owner(),
                lag=shard.lag(),
                oldest=None if oldest_ms is None else max(now_ms - oldest_ms, 0) / 1000,
                open_runs=shard.open_trees(),
                trimmed=shard.trimmed(),
                refused=len(shard.letters()),
            )
        )
    return found
