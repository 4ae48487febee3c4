"""Closing before SIGTERM ends the process, where that is asked for; nobody else's handler is ever replaced."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

#: What the end may take beyond the time that closing has, in seconds.
MARGIN_S: Final = 0.5


def close_on_sigterm(close: Callable[[], object], timeout: float) -> Callable[[], None]:
    """Have SIGTERM close first, then do what it does by default: end the process by the signal.

    Only where nobody handles it, and only from the main thread (no other may set handlers); elsewhere nothing is done.
    Gives the way to take it back.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return lambda: None

    def on_sigterm(number: int, _frame: Any) -> None:
        # In a thread: what the signal has interrupted here may hold a lock that closing needs.
        closing = threading.Thread(target=close, name="otel-agentbus-sigterm", daemon=True)
        closing.start()
        closing.join(timeout + MARGIN_S)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, on_sigterm)

    def undo() -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return undo


__all__ = ["close_on_sigterm"]
