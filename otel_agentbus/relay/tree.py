"""One tree as the relay sees it: the events of one key in the order of the stream, and what is open in them.

When something is judged depends on the stream alone: on the times that Redis has given to its entries, brought to each
source's own clock. So whoever reads the same entries again makes the same spans of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..events import (
    AgentEnd,
    AgentStart,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Event,
    LlmRequest,
    RecoveryCompleted,
    ToolCallStart,
)
from ..journal.redis import Entry
from ..telemetry.pairing import Source
from .makers import Maker

#: Milliseconds that an event may be longer under way into the stream than the one before it: its feed may have waited.
DELAY_MS = 5_000
#: Events after which an end that has no start is known to be told twice, or too late; some producers tell of ends only.
_TELLING = frozenset(
    (
        AgentStart,
        AgentEnd,
        LlmRequest,
        ToolCallStart,
        DeploymentStarted,
        DeploymentCompleted,
        DeploymentFailed,
        RecoveryCompleted,
    )
)


@dataclass(slots=True)
class _Voice:
    """One source as this tree hears of it: its machine, and its clock against the stream's."""

    machine: Source
    event_ns: int = 0
    ms: int = 0

    def due_ms(self) -> int | None:
        """When there is something to judge, in the stream's time."""
        due_ns = self.machine.due_ns
        return None if due_ns is None else self.ms + DELAY_MS + -((self.event_ns - due_ns) // 1_000_000)

    def now_ns(self, now_ms: int) -> int:
        """The stream's time by the source's own clock."""
        return self.event_ns + (now_ms - self.ms - DELAY_MS) * 1_000_000


class Tree:
    """The events of one key since it was over for the last time, which it was (`late`) or was not.

    Args:
        key: what its entries have in common.
        late: whether spans of it have ended that it does not know.
        count: told of what is left out.
        failed: told, where it is being handled, of what could not be made into a span.

    """

    __slots__ = (
        "_busy",
        "_count",
        "_due",
        "_failed",
        "_voices",
        "events",
        "fresh",
        "key",
        "last_ms",
        "lasting",
        "late",
        "open_spans",
        "weight",
    )

    def __init__(self, key: str, *, late: bool, count: Callable[[str], None], failed: Callable[[], None]) -> None:
        self.key = key
        self.late = late
        self._count = count
        self._failed = failed
        self._voices: dict[str, _Voice] = {}
        #: Those in which something is open, or waits.
        self._busy: set[str] = set()
        #: The voices that have something to judge, and when.
        self._due: dict[str, int] = {}
        #: How many it has had since it began, all of which are kept until it is over.
        self.events = 0
        #: Its entries that are not in the store yet.
        self.fresh: list[Entry] = []
        #: When it was last heard of, in the stream's time.
        self.last_ms = 0
        #: Whether it is to be remembered when it is over, so that no end makes a second span.
        self.lasting = late
        #: How many spans have begun in it and not ended; how much memory it was last taken to need, in spans.
        self.open_spans = 0
        self.weight = 1

    def apply(self, entry: Entry, event: Event, maker: Maker) -> None:
        """Take its next entry; what is due by then has been judged."""
        voice = self._voices.get(entry.source)
        if voice is None:
            machine = Source(entry.source, maker.writer, maker.grace_ns, self._count, late=self.late)
            voice = self._voices[entry.source] = _Voice(machine)
        self.events += 1
        ms = entry.ms
        if event.time_ns is None:
            event.time_ns = ms * 1_000_000
        if event.time_ns > voice.event_ns:
            voice.event_ns = event.time_ns
        voice.ms = self.last_ms = ms
        if event.__class__ in _TELLING:
            self.lasting = True
        self._tell(entry.source, voice.machine.apply, event)

    def judge(self, now_ms: int) -> None:
        """Let the time of the stream pass."""
        for source, due_ms in list(self._due.items()):
            if due_ms <= now_ms:
                voice = self._voices[source]
                self._tell(source, voice.machine.expire, voice.now_ns(now_ms))

    def close(self) -> None:
        """Nothing more is to come: what is open was interrupted when it was last heard of."""
        for source in sorted(self._voices):
            self._tell(source, self._voices[source].machine.close)
        self._busy.clear()  # a deployment that has failed waits for its recovery even then
        self._due.clear()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open in it or waits for anything."""
        return not self._busy

    @property
    def due_ms(self) -> int | None:
        """When there is something to judge, in the stream's time; None where nothing waits for its grace."""
        return min(self._due.values()) if self._due else None

    def _tell(self, source: str, function: Callable[..., None], *arguments: object) -> None:
        """Have a voice's machine do this, and see how it stands then."""
        voice = self._voices[source]
        machine = voice.machine
        before = machine.open_spans
        try:
            function(*arguments)
        except Exception:  # noqa: BLE001 - an event may be anything; the next one must not suffer
            self._failed()
        self.open_spans += machine.open_spans - before
        if machine.is_idle:
            self._busy.discard(source)
        else:
            self._busy.add(source)
        due_ms = voice.due_ms()
        if due_ms is not None:
            self._due[source] = due_ms
        elif self._due:
            self._due.pop(source, None)
