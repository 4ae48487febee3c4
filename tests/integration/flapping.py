"""A Collector that may be killed at any moment without losing what it has taken, and what kills it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from .backends import Collector

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from .backends import Jaeger


class DirectCollector(Collector):
    """The Collector without memory: it says that it took spans once Jaeger has them.

    The shipped one collects for a moment, so that a SIGKILL loses what it has answered for.
    """

    def __init__(self, binary: Path, directory: Path, jaeger: Jaeger) -> None:
        super().__init__(binary, directory, jaeger)
        self.additions = {
            "service::pipelines::traces::processors": "[]",
            "exporters::otlp_http/jaeger::sending_queue::enabled": "false",
            "exporters::otlp_http/jaeger::retry_on_failure::enabled": "false",
        }

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self in self.running

    def endpoint(self, protocol: str) -> str:
        """Where this protocol of OTEL_EXPORTER_OTLP_PROTOCOL is spoken."""
        return self.otlp_grpc_endpoint if protocol == "grpc" else self.otlp_http_endpoint


class Flapping:
    """While it is entered, the Collector is killed and started again and again; in the end it is up."""

    def __init__(self, collector: Collector, *, up: float, down: float) -> None:
        self._collector = collector
        self._up, self._down = up, down
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._flap, name="flapping", daemon=True)
        self._error: BaseException | None = None
        #: How often it was killed.
        self.kills = 0

    def _flap(self) -> None:
        try:
            while not self._over.wait(self._up):
                self._collector.kill()
                self.kills += 1
                time.sleep(self._down)
                self._collector.start()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
