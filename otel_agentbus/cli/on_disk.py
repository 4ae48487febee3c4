"""What `doctor` says of what is kept on disk: spools that wait, refused spans, and the journal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_agentbus.settings import Settings
    from otel_agentbus.telemetry.spool.directories import Found


@dataclass(frozen=True, slots=True)
class Spool:
    """One spool directory."""

    path: str
    endpoint: str
    waiting: int
    bytes: int
    dead_letters: int
    #: Whether the settings of now lead to it, or a process that is alive sends it.
    in_use: bool

    @property
    def sentence(self) -> str:
        """What it holds."""
        letters = f", {self.dead_letters:,} refused" if self.dead_letters else ""
        return f"{self.waiting:,} spans for {self.endpoint} ({self.bytes:,} bytes{letters}) in {self.path}"


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What is known of the spools and of the journal."""

    #: Below which directory spools are; None where they are off.
    spool: str | None
    journal: str | None
    spools: tuple[Spool, ...] = ()
    #: Processes that are gone, whose events nobody has recovered.
    unrecovered: int = 0

    def hints(self) -> Iterator[str]:
        """What somebody should see to."""
        for spool in self.spools:
            if spool.waiting and not spool.in_use:
                yield f"{spool.sentence} are nobody's any more: `otel-agentbus resend {spool.path}` sends them."
            if spool.dead_letters:
                where = f"{spool.path}/dead-letters.jsonl"
                yield f"{spool.dead_letters:,} spans were refused by {spool.endpoint}: {where} says why."
        if self.unrecovered:
            gone = "1 process that was" if self.unrecovered == 1 else f"{self.unrecovered} processes that were"
            yield f"The journal has events of {gone} killed: `otel-agentbus recover` sends them."

    def lines(self) -> Iterator[str]:
        """The section for people."""
        yield f"spool: {self.spool or 'off'}"
        yield f"journal: {self.journal or 'none'}"
        yield from (spool.sentence for spool in self.spools if spool.waiting or spool.dead_letters)


def on_disk(settings: Settings) -> OnDisk:
    """What lies in the directories of these settings; what cannot be read is left out."""
    if settings.spool is None:
        return OnDisk(None, settings.journal, unrecovered=_unrecovered(settings))
    from otel_agentbus.telemetry.spool.directories import spools

    ours = _key(settings)
    found = tuple(_spool(each, ours) for each in spools(settings.spool))
    return OnDisk(str(settings.spool), settings.journal, found, _unrecovered(settings))


def _spool(found: Found, ours: str | None) -> Spool:
    endpoint = "an endpoint that nobody wrote down" if found.about is None else found.about.endpoint
    in_use = found.owned or found.key == ours
    return Spool(str(found.path), endpoint, found.waiting, found.bytes, found.dead_letters, in_use)


def _key(settings: Settings) -> str | None:
    from otel_agentbus.telemetry.spool.directories import key_of

    return key_of(settings.target("traces")) if settings.exports_traces else None


def _unrecovered(settings: Settings) -> int:
    if settings.journal is None:
        return 0
    from otel_agentbus.journal import writers

    try:
        return sum(not (log.alive or log.finished) for log in writers(settings.journal))
    except OSError:
        return 0
