"""From a broker to an endpoint: workers that make spans of the events that other processes have written.

Any number of workers share the shards of a broker. A shard has one owner at a time; an event is acknowledged when the
endpoint has its spans and the store has what is still open; so a worker may die at any moment, and whoever takes over
sends the same spans, byte for byte.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .worker import Relayed, Report, Worker

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from ..settings import Settings

__all__ = ["Relayed", "Report", "relay"]


def relay(
    url: str,
    *,
    group: str = "relay",
    settings: Settings | None = None,
    exporters: Iterable[SpanExporter] | None = None,
    metrics: bool = False,
    lease: float = 5.0,
    until_empty: bool = False,
    stop: threading.Event | None = None,
    report: Callable[[Report], None] | None = None,
) -> Relayed:
    """Make spans of the events in a broker, and send them, until `stop` is set: one of any number of workers.

    Args:
        url: the broker, such as redis://localhost:6379/0.
        group: workers of one group share the work; each group reads everything.
        settings: made by hand instead of read from the environment.
        exporters: where to send, instead of where the settings say; they are shut down at the end.
        metrics: count the metrics of the events, too: for emitters that have no meters of their own.
        lease: seconds after which others take over the shards of a worker that is gone.
        until_empty: end when nothing is left to read, and nothing waits for its grace.
        stop: ends it, with what was read by then exported and acknowledged.
        report: told from time to time how it goes.

    Raises:
        ConfigurationError: there is no endpoint, redis-py is not installed, the URL is none, or the endpoint of the
            metrics wants what cannot be said.

    """
    from ..journal.redis import RedisJournal
    from ..settings import Settings as Read

    settings = settings or Read()
    journal = RedisJournal(
        url,
        name=settings.broker_name,
        shards=settings.broker_shards,
        group=group,
        remember=max(settings.run_ttl, 86_400.0),
    )
    worker = Worker(journal, settings, group=group, exporters=exporters, metrics=metrics, lease=lease)
    try:
        worker.run(stop or threading.Event(), until_empty=until_empty, report=report)
    finally:
        worker.close()
        journal.close()
    return worker.done
