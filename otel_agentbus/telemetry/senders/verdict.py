"""What became of one attempt to deliver spans, and what every sender promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from otel_agentbus.telemetry.otlp import Batch

Kind = Literal["delivered", "unavailable", "failed", "unauthorised", "too_large", "refused"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an endpoint said to one batch.

    `delivered`: it took the batch, but for the `rejected` spans. `unavailable`: send it again later, for ever.
    `failed`: send it again a few times, then the batch itself is at fault. `unauthorised`: keep it until somebody mends
    the credentials. `too_large`: send it in smaller parts. `refused`: it will never be taken.
    """

    kind: Kind
    #: How many spans of a delivered batch the endpoint then refused (partial success).
    rejected: int = 0
    #: What to tell people: one line, without our secrets.
    message: str = ""
    #: How many seconds the endpoint asks to wait before the next attempt.
    retry_after: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took the batch."""
        return self.kind == "delivered"


@runtime_checkable
class Sender(Protocol):
    """Delivers batches to one place; one caller at a time sends, anybody may shut it down."""

    @property
    def name(self) -> str:
        """Where it sends to, without secrets."""

    def send(self, batch: Batch) -> Verdict:
        """One attempt, over by the target's timeout; never raises."""

    def shutdown(self) -> None:
        """Send nothing any more; an attempt under way is ended at once, where that is possible."""

    def renew(self) -> None:
        """Be usable in the child of a fork: what the parent has opened is left alone."""
