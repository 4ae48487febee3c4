"""What people call a moment: a date, a time on their clock or with its zone, or how long ago it was."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.ASCII)


def moment_of(since: datetime | timedelta | str, now: datetime | None = None) -> datetime:
    """A moment that is given as such, or as the time that has passed since ("90s", "15m", "2h", "7d", "1w").

    Without a zone it is local time, in a text and in a datetime.

    Raises:
        ValueError: it is neither, or in no year that a calendar has.

    """
    try:
        if isinstance(since, str):
            text = since.strip()
            found = _DURATION.fullmatch(text)
            since = datetime.fromisoformat(text) if found is None else timedelta(**{_UNITS[found[2]]: float(found[1])})
        if isinstance(since, timedelta):
            return (now or datetime.now(UTC)) - since
        return since.astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{str(since)!r} is no time; write 90s, 1h, 7d, 2026-11-21 or 2026-11-21T16:30") from None


def nanoseconds_of(since: datetime | timedelta | str) -> int:
    """The same moment in nanoseconds since 1970.

    Raises:
        ValueError: as `moment_of`.

    """
    return round(moment_of(since).timestamp() * 1e9)
