"""The trees of one shard: entries in, spans out, and what the next acknowledgement has to keep of the open ones.

Everything here is a function of the entries in their order and of what was acknowledged before: read again, by another
worker or in other batches, they give the same spans. A tree in which nothing is open is over; of trees that stay open
the store has the entries, and a tree that was put away, or comes from another worker, is made again of them.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

from ..errors import UnreadableEvent
from ..events import Event, UnknownEvent
from ..journal.redis import Entry, Kept
from ..recording import Opening
from ..recording.records import read_record
from ..telemetry.told_accounts import account_told
from .makers import Makers
from .tree import Tree

_log = logging.getLogger("otel_agentbus.relay")

#: How many sources' marks are at hand.
MARKS = 8192
#: So many events of one tree are worth a warning: who takes it over reads them again.
LONG = 100_000
#: Keys that begin like this stand for what has no ids at all, of one source: such trees are over again and again.
NO_TREE = "@"


class Known(NamedTuple):
    """What a store knows of a tree: the entries of an open one, and whether it was over before."""

    entries: Sequence[Entry] = ()
    over: bool = False


class Store(Protocol):
    """What a shard's store knows of what was acknowledged."""

    def known(self, keys: Collection[str]) -> Mapping[str, Known]:
        """What there is of these trees; those of which nothing is known may be missing."""

    def marks(self, sources: Collection[str]) -> Mapping[str, int]:
        """The number of each source's last event here."""


class Counting(Protocol):
    """Counts the metrics of a shard."""

    def count(self, event: Event, opening: Opening | None) -> None:
        """Count this event."""

    def quiet(self) -> AbstractContextManager[object]:
        """What is counted in here was counted before."""


class _Block:
    """The block that had emitted an event: its end is in the stream, or its process never reached it."""

    ended = False


_BLOCK = _Block()
_NOTHING = Known()


class Trees:
    """The trees of one shard, as far as they are in memory."""

    def __init__(self, store: Store, makers: Makers, ttl_ms: int, counting: Counting | None = None) -> None:
        self._store = store
        self._makers = makers
        self._ttl_ms = ttl_ms
        self._counting = counting
        self._trees: OrderedDict[str, Tree] = OrderedDict()  # longest idle first
        self._due: set[str] = set()
        self._marks: OrderedDict[str, int] = OrderedDict()
        #: What the store has said of trees that are not in memory, until it is told of changes.
        self._known: dict[str, Known] = {}
        self._loading = False
        #: What has happened since the last acknowledgement: trees that changed, or were looked at, and stay open; those
        #: that are over, and whether that is to be remembered; sources that were heard.
        self._changed: set[str] = set()
        self._ended: dict[str, bool] = {}
        self._heard: set[str] = set()
        #: What was left out, and what was over, by name.
        self.counts: Counter[str] = Counter()
        #: How many spans are open in memory; a tree that only waits counts as one.
        self.weight = 0

    def __len__(self) -> int:
        """How many trees are in memory."""
        return len(self._trees)

    # -- in ------------------------------------------------------------------------------------------------------------

    def prepare(self, entries: Iterable[Entry]) -> None:
        """Ask the store, at once, what is not at hand of what these entries are about."""
        entries = list(entries)
        self._ask({entry.key for entry in entries})
        heard = {entry.source for entry in entries}
        for source in heard:
            self._makers.of(source)
        sources = heard - self._marks.keys()
        if sources:
            marks = self._store.marks(sources)
            self._marks.update((source, marks.get(source, -1)) for source in sources)

    def feed(self, entry: Entry) -> None:
        """Take the next entry."""
        self.counts["events"] += 1
        event = self._event_of(entry)
        if event is None:
            return
        if isinstance(event, UnknownEvent):
            self.counts["unknown"] += 1
            return
        tree = self._tree_at(entry.key, entry.ms)
        self._apply(tree, entry, event)
        tree.fresh.append(entry)
        if tree.events == LONG:
            _log.warning("The tree %s has %d events by now, which are all kept until it is over", tree.key, LONG)
        self._settle(tree)

    def _apply(self, tree: Tree, entry: Entry, event: Event) -> None:
        maker = self._makers.of(entry.source)
        if self._counting is not None:
            self._counting.count(event, maker.opening)
        tree.apply(entry, event, maker)

    def _event_of(self, entry: Entry) -> Event | None:
        try:
            event = _read(entry)
        except UnreadableEvent:
            self.counts["unreadable"] += 1
            return None
        if event.seq is not None:
            source = entry.source
            if event.seq <= self._mark(source):
                self.counts["duplicates"] += 1
                return None
            self._marks[source] = event.seq
            self._heard.add(source)
        return event

    def _mark(self, source: str) -> int:
        mark = self._marks.get(source)
        if mark is None:
            mark = self._marks[source] = self._store.marks((source,)).get(source, -1)
        else:
            self._marks.move_to_end(source)
        return mark

    # -- time ----------------------------------------------------------------------------------------------------------

    def judge(self, now_ms: int) -> None:
        """Let the stream's time pass: all that was written before it has been taken."""
        for key in sorted(self._due):
            tree = self._trees[key]
            if (tree.due_ms or 0) <= now_ms:
                tree.judge(now_ms)
                self._settle(tree)

    def look_at(self, keys: Iterable[str], now_ms: int) -> None:
        """Trees of which nothing was heard, or in which something may be due: judge them, or end them."""
        keys = list(keys)
        self._ask(keys)
        for key in keys:
            self._lapse(self._tree(key), now_ms)

    def _lapse(self, tree: Tree, now_ms: int) -> bool:
        """Judge what is due in a tree by now; whether it is over."""
        tree.judge(now_ms)
        if not tree.is_idle and now_ms - tree.last_ms > self._ttl_ms:
            tree.close()
            self.counts["expired"] += 1
        return self._settle(tree)

    # -- trees ---------------------------------------------------------------------------------------------------------

    def _tree_at(self, key: str, now_ms: int) -> Tree:
        """The tree for something that comes now; one that is over by now begins anew."""
        tree = self._trees.get(key)
        if tree is not None:
            self._trees.move_to_end(key)
        else:
            tree = self._tree(key)
        if tree.last_ms and self._is_due(tree, now_ms) and self._lapse(tree, now_ms):
            tree = self._tree(key)
        return tree

    def _is_due(self, tree: Tree, now_ms: int) -> bool:
        due_ms = tree.due_ms
        return now_ms - tree.last_ms > self._ttl_ms or (due_ms is not None and due_ms <= now_ms)

    def _tree(self, key: str) -> Tree:
        """The tree with this key: in memory, in the store, or new."""
        tree = self._trees.get(key)
        if tree is not None:
            return tree
        known = self._known.pop(key, None)
        if known is None:
            self._ask((key,))
            known = self._known.pop(key)
        tree = Tree(key, late=known.over, count=self._count, failed=self._makers.failed)
        self._trees[key] = tree
        self.weight += tree.weight
        if known.entries:
            self._load(tree, known.entries)
        return tree

    def _ask(self, keys: Iterable[str]) -> None:
        """Have at hand what the store knows of these trees, or would know after an acknowledgement now."""
        unknown = [key for key in keys if not (key in self._trees or key in self._known)]
        asked = [key for key in unknown if key not in self._ended]
        found = self._store.known(asked) if asked else {}
        for key in unknown:
            self._known[key] = Known((), self._ended[key]) if key in self._ended else found.get(key, _NOTHING)

    def _load(self, tree: Tree, entries: Iterable[Entry]) -> None:
        """Feed it again with what was acknowledged; whatever ends by that was sent before."""
        with self._quiet():
            for entry in entries:
                try:
                    event = _read(entry)
                except UnreadableEvent:  # written by a newer version's relay
                    continue
                tree.judge(entry.ms)
                self._apply(tree, entry, event)
        self._weigh(tree)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        sent = len(self._makers.spans)
        self._loading = True
        try:
            with self._counting.quiet() if self._counting is not None else nullcontext():
                yield
        finally:
            self._loading = False
            del self._makers.spans[sent:]

    def _count(self, what: str) -> None:
        if not self._loading:
            self.counts[what] += 1

    def _settle(self, tree: Tree) -> bool:
        """Note how a tree stands; whether it is over."""
        key = tree.key
        if not tree.is_idle:
            self._changed.add(key)
            self._weigh(tree)
            if tree.due_ms is not None:
                self._due.add(key)
            else:
                self._due.discard(key)
            return False
        self._forget(tree)
        self._changed.discard(key)
        self._ended[key] = tree.lasting and not key.startswith(NO_TREE)
        self.counts["trees"] += 1
        return True

    def _forget(self, tree: Tree) -> None:
        del self._trees[tree.key]
        self._due.discard(tree.key)
        self.weight -= tree.weight

    def _weigh(self, tree: Tree) -> None:
        weight = max(tree.open_spans, 1)
        self.weight += weight - tree.weight
        tree.weight = weight

    # -- out -----------------------------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether there is anything to acknowledge but the position."""
        return bool(self._changed or self._ended or self._heard)

    @property
    def waits(self) -> bool:
        """Whether anything in memory waits for its grace."""
        return bool(self._due)

    def kept(self) -> Kept:
        """What the acknowledgement of all that was taken until now has to keep."""
        changed = [self._trees[key] for key in self._changed]
        return Kept(
            grown={tree.key: tree.fresh for tree in changed if tree.fresh},
            heard={tree.key: self._again_ms(tree) for tree in changed},
            over=[key for key, remembered in self._ended.items() if remembered],
            dropped=[key for key, remembered in self._ended.items() if not remembered],
            marks={source: self._marks[source] for source in self._heard},
        )

    def _again_ms(self, tree: Tree) -> int:
        """When the tree was heard of; before that, if somebody must look at it before its time is over."""
        due_ms = tree.due_ms
        return tree.last_ms if due_ms is None else min(tree.last_ms, due_ms - self._ttl_ms)

    def acked(self) -> None:
        """The store has it."""
        for key in self._changed:
            tree = self._trees[key]
            tree.fresh = []
        self._changed.clear()
        self._ended.clear()
        self._heard.clear()
        self._known.clear()
        while len(self._marks) > MARKS:
            self._marks.popitem(last=False)

    def put_away(self, most: int) -> None:
        """Have at most so many open spans in memory, after an acknowledgement: the trees longest idle go."""
        while self.weight > most and self._trees:
            self._forget(next(iter(self._trees.values())))


def _read(entry: Entry) -> Event:
    event, by_block = read_record(entry.data, account_told)
    if by_block:
        event.origin = _BLOCK
    else:
        del event.origin
    return event
