"""To Redis: a Pub/Sub channel, as many applications have one, or a stream that keeps what nobody has heard yet."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from ..errors import ConfigurationError
from ..events import Event
from ..router.interest import What
from ..telemetry.senders.quiet import suppressed
from ..values import masked
from .forwarder import PATIENCE_S, Bus, Forwarding, Names, telling_of
from .telling import Telling

#: How many entries a stream keeps, about.
MAX_ENTRIES = 10_000


class RedisForwarding(Forwarding):
    """Events on their way to a channel or a stream of Redis."""

    _client: Any = None

    def read(self, message: bytes | str) -> bool:
        """Have our handlers hear a message of the channel, as `receive` does; False where it is ours, or none at all.

        A message is JSON: `{"type", "agent", "data", "timestamp"}`, what else is in it is not looked at.
        """
        try:
            found = from_json(message)
            kind, data, ids = found["type"], found.get("data"), found.get("agentbus")
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
        if not isinstance(kind, str) or not kind:
            return False
        return self.receive(kind, data if isinstance(data, dict) else {}, ids if isinstance(ids, dict) else None)

    def off(self, timeout: float = 1.0) -> None:
        """As `Forwarding.off`; closes the connection."""
        super().off(timeout)
        if self._client is not None:
            self._client.connection_pool.disconnect()


def forward_to_redis(
    url: str,
    *what: What,
    channel: str | None = None,
    stream: str | None = None,
    bus: Bus | None = None,
    names: Names | Telling = "events",
    content: bool = False,
    name: str | None = None,
    queue_size: int = 1000,
    timeout: float = PATIENCE_S,
    max_entries: int = MAX_ENTRIES,
) -> RedisForwarding:
    """Publish our events in Redis: on a channel (`PUBLISH`), or in a stream (`XADD`), by a thread of ours.

    A message is `{"type", "agent", "data", "timestamp", "agentbus"}` in JSON: the time in ISO 8601 (UTC), and under
    "agentbus" the ids of the event. An entry of a stream has these as its fields, `data` and `agentbus` in JSON.

    Args:
        url: as redis-py takes it: redis://localhost:6379/0.
        what: event classes and names, as in `subscribe`; none means all.
        channel: the channel.
        stream: the stream, instead of a channel.
        bus: whose events: a bus or a router; the one that is connected, if none is given.
        names: as in `forward_to`.
        content: as in `forward_to`.
        name: what this bus is called, the same in all processes; that of the channel or stream, if none is given.
        queue_size: how many events may wait; beyond it the oldest are dropped and counted.
        timeout: seconds that Redis may take; an event that it does not take counts as failed, and the next is tried.
        max_entries: how long the stream may grow, about.

    Raises:
        ConfigurationError: neither or both of channel and stream are given, redis-py is not installed, the URL is
            none, or there is no bus.

    """
    if (channel is None) == (stream is None):
        raise ConfigurationError("Forwarding to Redis takes one of channel and stream: give the name of the one.")
    client = _client(url, timeout)

    def send(event: Event, kind: str, data: dict[str, Any]) -> object:
        message = {
            "type": kind,
            "agent": event.agent,
            "data": data,
            "timestamp": _moment(event.time_ns),
            "agentbus": forwarding.ids(event),
        }
        with suppressed():
            if channel is not None:
                return client.publish(channel, _json(message))
            fields = {key: value if isinstance(value, str) else _json(value) for key, value in message.items() if value}
            return client.xadd(stream, fields, maxlen=max_entries, approximate=True)

    name = name or channel or stream or ""
    forwarding = RedisForwarding(
        send,
        what,
        bus,
        name=name,
        label=f"forwarding to {name} in {masked(url)}",
        telling=telling_of(names),
        content=content,
        queue_size=queue_size,
    )
    forwarding._client = client
    return forwarding


def _client(url: str, timeout: float) -> Any:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ConfigurationError(f"Forwarding to {masked(url)} needs redis-py: install otel-agentbus[redis].") from None
    try:
        return redis.Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
    except (ValueError, TypeError):  # its sentence may have the password
        raise ConfigurationError(
            f"The URL {masked(url)} cannot be read: write it like redis://localhost:6379/0."
        ) from None


def _json(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="strings")


def _moment(time_ns: int | None) -> str:
    at = datetime.now(UTC) if time_ns is None else datetime.fromtimestamp(time_ns / 1e9, UTC)
    return at.isoformat()
