"""Where a setting comes from and where a signal goes: what the settings say once they are read and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from otel_agentbus.values import Compression, Pairs, Protocol, Signal, masked


class Origin(NamedTuple):
    """Where a setting's value comes from, and the variable that sets it."""

    kind: Literal["environment", "argument", "default"]
    variable: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where one signal goes over OTLP, and how: all that an exporter needs, already checked."""

    signal: Signal
    protocol: Protocol
    endpoint: str = field(repr=False)
    timeout: float
    compression: Compression
    insecure: bool
    certificate: str | None
    client_key: str | None
    client_certificate: str | None
    #: The entry point that the user's environment names for credentials; it replaces our session or TLS credentials.
    credential_provider: str | None
    headers: Pairs = field(repr=False)
    #: Headers of the environment that arguments have replaced, and that the exporter must not pick up by itself.
    withheld: frozenset[str]

    @property
    def shown(self) -> str:
        """The endpoint as it may be shown: without user, password and query."""
        return masked(self.endpoint)
