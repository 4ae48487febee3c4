"""Web services of the tests, each a process of its own, on the leash that the real servers are on."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import httpx

from .backends import REPOSITORY, Server, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

Wiring = Literal["sdk", "ours", "plain"]


class Service(Server):
    """One service; `next` is whom its agents ask: another, or itself."""

    name: ClassVar[str] = "service"

    def __init__(
        self, directory: Path, wiring: Wiring, endpoint: str, *, next: Service | None = None, **variables: str
    ) -> None:
        super().__init__(Path(sys.executable), directory)
        (port,) = free_ports(1)
        self.service = f"service-{uuid.uuid4().hex[:8]}"
        self.log = directory / f"{self.service}.log"
        self.url = f"http://127.0.0.1:{port}"
        self._arguments = [str(port), self.url if next is None else next.url, wiring]
        self._variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": self.service,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
            "PYTHONPATH": str(REPOSITORY),
            "NO_PROXY": "127.0.0.1",
            **variables,
        }

    def command(self) -> list[str]:
        given = [f"{name}={value}" for name, value in self._variables.items()]
        return ["env", *given, str(self.binary), "-m", "tests.integration.programs.service", *self._arguments]

    def health_urls(self) -> list[str]:
        return [f"{self.url}/healthy"]

    def ask(self, path: str, headers: Mapping[str, str] | None = None, **query: str) -> Any:
        """What it answers."""
        answer = httpx.get(f"{self.url}{path}", params=query, headers=headers, timeout=30, trust_env=False)
        return answer.raise_for_status().json()
