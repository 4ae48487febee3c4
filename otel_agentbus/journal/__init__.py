"""Bytes that are to survive this process: append, read what is not yet acknowledged, acknowledge."""

from __future__ import annotations

from .logs import Claim, WriterLog, writers
from .memory import MemoryJournal
from .protocol import Journal, JournalCounts, KeyedJournal, Position, Record
from .segments import SegmentJournal

__all__ = [
    "Claim",
    "Journal",
    "JournalCounts",
    "KeyedJournal",
    "MemoryJournal",
    "Position",
    "Record",
    "SegmentJournal",
    "WriterLog",
    "writers",
]
