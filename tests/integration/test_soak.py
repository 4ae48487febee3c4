"""A soak with a Collector that is killed every few seconds: nothing grows, and the ledger balances to the last event.

AGENTBUS_SOAK_EVENTS says how many events (200,000), AGENTBUS_SOAK_SECONDS for how long at most (half an hour).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from .backends import Jaeger
from .conftest import required
from .flapping import DirectCollector, Flapping
from .programs import soak
from .sampled import Sample, Sampled
from .troupes import ROOT, environment

EVENTS = int(os.environ.get("AGENTBUS_SOAK_EVENTS") or 200_000)
SECONDS = float(os.environ.get("AGENTBUS_SOAK_SECONDS") or 1800)
#: Events per second: what two slow cores do with a Collector beside it.
RATE = 4000

JOURNAL_BYTES = 16 * 1024 * 1024
SPOOL_BYTES = 64 * 1024 * 1024
UP_S, DOWN_S = 3.0, 1.5

#: What may come on top in the second half: of memory a tenth of what there was, or so many bytes; threads; descriptors.
GROWTH, GROWTH_BYTES, MORE_THREADS, MORE_DESCRIPTORS = 0.1, 16 * 1024 * 1024, 2, 5


class Sink(DirectCollector):
    """A Collector that takes everything and keeps nothing: Jaeger would hold two million events in memory."""

    def __init__(self, binary: Path, directory: Path, jaeger: Jaeger) -> None:
        super().__init__(binary, directory, jaeger)
        self.additions |= {
            "exporters::file::path": os.devnull,
            "service::pipelines::traces::exporters": '["file"]',
        }


class Soaked(NamedTuple):
    """The program has ended: what it said when all was delivered, and when it was closed; the samples of its work."""

    settled: dict[str, Any]
    closed: dict[str, Any]
    samples: list[Sample]
    kills: int


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[Soaked]:
    """The program, watched while it emits."""
    directory = tmp_path_factory.mktemp("soak")
    journal, spool = directory / "journal", directory / "spool"
    sink = Sink(required("collector"), directory, jaeger)
    sink.start()
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.otlp_http_endpoint,
        "OTEL_SERVICE_NAME": "soak",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
        "AGENTBUS_SPOOL_DIR": str(spool),
        "AGENTBUS_SPOOL_MAX_BYTES": str(SPOOL_BYTES),
        "AGENTBUS_JOURNAL": str(journal),
        "AGENTBUS_JOURNAL_MAX_BYTES": str(JOURNAL_BYTES),
    }
    command = [sys.executable, "-m", soak.__name__, str(EVENTS), str(RATE), str(SECONDS)]
    try:
        with (directory / "stderr").open("wb") as errors:
            program = subprocess.Popen(
                command, cwd=ROOT, env=environment(settings), stdout=subprocess.PIPE, stderr=errors, text=True
            )
        try:
            watchdog = threading.Timer(min(SECONDS, EVENTS / 500) + 300, program.kill)
            watchdog.start()
            assert program.stdout is not None
            lines = (json.loads(line) for line in program.stdout)
            with (
                Sampled(program.pid, journal, spool, every=0.25) as watched,
                Flapping(sink, up=UP_S, down=DOWN_S) as flapping,
            ):
                done = next(line for line in lines if "done" in line)
            said = list(lines)
            assert program.wait(60) == 0
        finally:
            watchdog.cancel()
            program.kill()
            program.communicate()
        assert len(said) == 2, said
        assert done["done"] == said[0]["emitted"]
        print((directory / "stderr").read_text()[-2000:])
        yield Soaked(said[0], said[1], watched.samples, flapping.kills)
    finally:
        sink.stop()


def test_the_soak_was_one(soaked: Soaked) -> None:
    """It emitted what it should, or as much as the time allowed, while the Collector was killed and came back."""
    took = soaked.samples[-1].at - soaked.samples[0].at
    assert soaked.settled["emitted"] >= EVENTS - 1000 or took >= SECONDS
    assert soaked.kills >= took // (UP_S + DOWN_S + 10)
    assert soaked.kills >= 2
    assert soaked.settled["health"]["spans"]["kept"] > 0  # what the Collector did not take had to be kept


@pytest.mark.parametrize("moment", ["settled", "closed"])
def test_the_ledger_balances_to_the_last_event(soaked: Soaked, moment: str) -> None:
    said = getattr(soaked, moment)
    health = said["health"]
    assert said[moment] is True
    assert health["balance"] == dict.fromkeys(health["balance"], 0)
    assert health["events"]["emitted"] == said["emitted"]
    assert health["events"]["dropped"] == {"queue_full": 0, "invalid": 0, "exit_timeout": 0}
    assert health["events"]["queued"] == 0
    spans = health["spans"]
    assert spans["ended"] == said["emitted"] // 2
    assert spans["ended"] + spans["unsampled"] == spans["begun"]
    gone = spans["exported"] + spans["rejected"] + spans["dead_lettered"] + sum(spans["dropped"].values())
    assert gone == spans["ended"]
    assert (spans["open"], spans["spooled"], spans["waiting"]) == (0, 0, 0)
    assert spans["exported"] == spans["ended"]  # a Collector that only comes and goes costs nothing


def test_every_event_is_in_the_books_of_the_journal(soaked: Soaked) -> None:
    journal = soaked.closed["health"]["journal"]
    assert journal["failed"] == {}
    assert journal["written"] == soaked.closed["emitted"]


def halves(samples: list[Sample], value: Callable[[Sample], int]) -> tuple[list[int], list[int]]:
    """The values between a fifth of the time, when all is warm, and the half; and those after it."""
    values = [value(sample) for sample in samples]
    return values[len(values) // 5 : len(values) // 2], values[len(values) // 2 :]


def test_memory_is_flat(soaked: Soaked) -> None:
    """Its last two quarters: until then what is remembered, which is bounded, fills up, on a busy machine slowly."""
    first, second = halves(soaked.samples[-len(soaked.samples) * 5 // 8 :], lambda sample: sample.rss)
    told = f"MiB: {[sample.rss >> 20 for sample in soaked.samples[:: max(1, len(soaked.samples) // 40)]]}"
    assert median(second) <= max(median(first) * (1 + GROWTH), median(first) + GROWTH_BYTES), told
    assert max(second) <= max(first) * (1 + GROWTH) + GROWTH_BYTES, told


def test_threads_and_descriptors_are_flat(soaked: Soaked) -> None:
    first, second = halves(soaked.samples, lambda sample: sample.threads)
    assert max(second) <= max(first) + MORE_THREADS, (first, second)
    first, second = halves(soaked.samples, lambda sample: sample.descriptors)
    assert max(second) <= max(first) + MORE_DESCRIPTORS, (first, second)


def test_the_disk_is_flat(soaked: Soaked) -> None:
    """The journal keeps to its bound, and the spool is emptied each time that the Collector is back."""
    journal = [sample.disk[0] for sample in soaked.samples]
    assert max(journal) <= JOURNAL_BYTES * 1.1
    assert min(journal[-len(journal) // 2 :]) >= min(JOURNAL_BYTES, EVENTS * 100) * 0.5  # and it is used
    first, second = halves(soaked.samples, lambda sample: sample.disk[1])
    assert max(second) <= max(2 * max(first), SPOOL_BYTES // 4)
    assert min(second) <= 1024 * 1024, second
