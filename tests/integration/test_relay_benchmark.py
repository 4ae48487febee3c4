"""The relay's benchmark on a run so small that its numbers mean nothing: everything that it says is there."""

from __future__ import annotations

import pytest

from benchmarks import relay

from .redis_server import Redis

SMALL = ["--events", "180", "--workers", "1,2", "--rates", "200", "--seconds", "0.5", "--open-runs", "40"]

CASES = """
CPU of 1 worker, an event
CPU of 2 workers, an event
CPU of Redis, an event read
memory of Redis, an event
1 worker
2 workers
CPU of a worker, an event: the rest
CPU of a worker, an event: read
CPU of a worker, an event: ask the store
CPU of a worker, an event: apply
CPU of a worker, an event: parse
CPU of a worker, an event: send
CPU of a worker, an event: encode
CPU of a worker, an event: acknowledge
CPU of an emitter, an event: with a broker
CPU of Redis, an event written
CPU of an emitter, an event: spans by OTLP
emit to export at 200 events/s, p50
emit to export at 200 events/s, p99
events in the broker at 200 events/s, p99
memory of a worker, 1 open runs
memory of a worker, 4 open runs
memory of a worker, 20 open runs
memory of a worker, 40 open runs
memory of Redis, an open run
taking over all shards, 40 open runs
emit to export, end of an old run
CPU of a worker, end of an old run
"""


def test_the_benchmark_of_the_relay_says_everything(redis_server: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert relay.main([*SMALL, "--rounds", "1", "--lease", "1", "--no-backends"]) == 0
    title, _, _, *rows, last = capsys.readouterr().out.splitlines()
    assert ", Redis 7" in title
    assert [row.split("  ")[0] for row in rows] == CASES.split("\n")[1:-1]
    assert last.startswith("Then: ")
