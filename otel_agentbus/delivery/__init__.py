"""How one handler is called: inline, in a thread, as a task; bounded, counted, isolated."""

from __future__ import annotations

from .answering import answer_of
from .handlers import Handler, Inline, Tally, is_async, is_generator, name_of_handler, weakly
from .queued import InThread, Queued
from .tasks import AsTask, Receipts

__all__ = [
    "AsTask",
    "Handler",
    "InThread",
    "Inline",
    "Queued",
    "Receipts",
    "Tally",
    "answer_of",
    "is_async",
    "is_generator",
    "name_of_handler",
    "weakly",
]
