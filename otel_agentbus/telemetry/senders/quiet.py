"""Exports that no instrumentation records, and an official exporter that does not log what we log ourselves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context

_here = threading.local()


@contextmanager
def suppressed() -> Iterator[None]:
    """No instrumentation makes spans of what is done inside."""
    key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
    now = context.set_value("suppress_instrumentation", True)  # what older instrumentation asks for
    token = context.attach(context.set_value(key, True, now))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def unlogged(name: str) -> Iterator[None]:
    """The logger of this name says nothing that comes from this thread."""
    logging.getLogger(name).addFilter(_not_from_here)  # once: the same filter is not added again
    _here.silent = True
    try:
        yield
    finally:
        _here.silent = False


def _not_from_here(_record: logging.LogRecord) -> bool:
    return not getattr(_here, "silent", False)
