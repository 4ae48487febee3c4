"""Records of many processes in Redis Streams, which workers on many machines share: in shards, each owned by lease."""

from __future__ import annotations

from .counters import Counters
from .entries import Entry, Kept, shard_of
from .journal import NotWritten, RedisJournal
from .leases import Lease, LeaseLost
from .shards import ShardLog

__all__ = ["Counters", "Entry", "Kept", "Lease", "LeaseLost", "NotWritten", "RedisJournal", "ShardLog", "shard_of"]
