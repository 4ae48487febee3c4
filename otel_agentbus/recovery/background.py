"""Recovering beside a program that has just started; it must not wait for what another one has left."""

from __future__ import annotations

import logging
import threading

from ..settings import Settings
from .recovering import recover

_log = logging.getLogger("otel_agentbus.recovery")


def recover_in_background(settings: Settings) -> threading.Thread:
    """Recover the journal of these settings in a thread of its own, and log what came of it.

    If the program ends meanwhile, nothing is lost: whoever recovers next begins anew what was not finished.
    """

    def work() -> None:
        try:
            found = recover(settings=settings)
        except Exception as error:  # noqa: BLE001 - of those who started it nobody waits for it
            _log.warning("The journal could not be recovered: %s", error)
            return
        if found.sources:
            _log.info("Recovered %d runs (%d spans) of %d processes", found.runs, found.spans, found.sources)

    thread = threading.Thread(target=work, name="otel-agentbus-recover", daemon=True)
    thread.start()
    return thread
