"""The user's own redaction, isolated: what it fails on is not exported."""

from __future__ import annotations

import logging
from collections.abc import Callable

from otel_agentbus.events import JSON

from .rendering import safe_json

#: The user's hook: the field's name and its scrubbed JSON in, what may be exported out (None: nothing).
Redact = Callable[[str, JSON], JSON]

_log = logging.getLogger("otel_agentbus.content")


class Hook:
    """Calls the user's hook, if there is one, for every content and every error text."""

    def __init__(self, redact: Redact | None, max_bytes: int) -> None:
        self._redact = redact
        self._max_bytes = max_bytes
        #: How often it raised; what it was called with was dropped each time.
        self.failures = 0

    def __call__(self, field: str, value: JSON) -> JSON:
        """What the hook leaves of a value; None where it fails."""
        if self._redact is None:
            return value
        try:
            return safe_json(self._redact(field, value), 2 * self._max_bytes, self._max_bytes)
        except Exception as error:  # noqa: BLE001 - the user's code: isolation point
            self.failures += 1
            if self.failures == 1:  # its text may quote the content: the type must do
                _log.warning("The redact hook raised %s; such content is dropped.", type(error).__name__)
            return None
