"""What `doctor` says of the broker: whether it answers, what waits there, and who makes the spans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_agentbus.cli.sentences import counted

if TYPE_CHECKING:
    from otel_agentbus.journal.redis import RedisJournal
    from otel_agentbus.settings import Settings


@dataclass(frozen=True, slots=True)
class Group:
    """One group of relay workers, as the broker knows it; sums over the shards."""

    name: str
    #: Events that it has not acknowledged, and those that the bound on the length took before.
    lag: int
    trimmed: int
    #: Shards that a worker owns now.
    owned: int


@dataclass(frozen=True, slots=True)
class OnBroker:
    """What is known of the broker."""

    broker: str
    #: Whether a relay makes the spans of this process, and it none itself.
    relayed: bool
    shards: int = 0
    groups: tuple[Group, ...] = ()
    trouble: str | None = None

    def problems(self) -> Iterator[str]:
        """What is wrong."""
        if self.trouble is not None:
            yield f"The broker {self.broker} does not answer: {self.trouble}. Events wait where they are until it does."

    def hints(self) -> Iterator[str]:
        """What somebody should see to."""
        if self.trouble is not None:
            return
        if not any(group.owned for group in self.groups):
            made = "no spans are made" if self.relayed else "nobody reads it"
            yield f"No worker of a relay reads {self.broker}, so that {made}: start `otel-agentbus relay`."
        for group in self.groups:
            if group.lag and not group.owned:
                yield (
                    f"{counted(group.lag, 'event')} wait in the broker for the group {group.name}, which no worker is "
                    f"of: start one (--group {group.name}), or `otel-agentbus relay --forget-group {group.name}`."
                )
            if group.trimmed:
                lost = counted(group.trimmed, "event")
                yield f"{lost} went by the bound of AGENTBUS_BROKER_MAX_EVENTS before the group {group.name} read them."

    def lines(self) -> Iterator[str]:
        """The section for people."""
        state = "does not answer" if self.trouble else f"answers, {counted(self.shards, 'shard')}"
        yield f"{self.broker}: {state}"
        yield f"spans: {'made by a relay, none by this process' if self.relayed else 'by this process, and by a relay'}"
        for group in self.groups:
            yield f"group {group.name}: {group.lag:,} waiting, {group.owned} of {counted(self.shards, 'shard')} owned"


def on_broker(settings: Settings, timeout: float | None = None) -> OnBroker | None:
    """What the broker of these settings says, which is told nothing; None where there is none.

    Raises:
        ConfigurationError: redis-py is not installed, or the URL is none.

    """
    if settings.broker is None or settings.sdk_disabled:
        return None
    from otel_agentbus.journal.redis import RedisJournal

    url, name = settings.broker, settings.broker_name

    def journal(group: str = "relay") -> RedisJournal:
        return RedisJournal(url, name=name, shards=settings.broker_shards, group=group, timeout=timeout or 5.0)

    log = journal()
    try:
        shards = log.known_shards()
        groups = log.groups() if shards else []
        found = tuple(_group(each, journal(each), shards) for each in groups)
    except OSError as error:
        return OnBroker(log.url, settings.relays, trouble=(error.strerror or str(error)).rstrip("."))
    return OnBroker(log.url, settings.relays, shards, found)


def _group(name: str, log: RedisJournal, shards: int) -> Group:
    found = [log.shard(number) for number in range(shards)]
    owned = sum(shard.owner() is not None for shard in found)
    return Group(name, sum(shard.lag() for shard in found), sum(shard.trimmed() for shard in found), owned)
