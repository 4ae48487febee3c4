"""Damaged bytes, kept aside in `corrupt/` for whoever wants to look at them."""

from __future__ import annotations

import os
from pathlib import Path

from .places import ASIDE, make_private, open_private


def bytes_aside(directory: Path) -> int:
    """How many bytes of this journal's directory lie aside."""
    try:
        with os.scandir(directory / ASIDE) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0


def put_aside(directory: Path, name: str, content: bytes, room: int) -> None:
    """Keep these bytes under this name, once, as long as no more than `room` bytes lie aside with them.

    What cannot be kept is left: it is counted as damaged in any case.
    """
    if bytes_aside(directory) + len(content) > room:
        return
    try:
        make_private(directory / ASIDE)
        descriptor = open_private(directory / ASIDE / name, os.O_WRONLY | os.O_EXCL)
    except OSError:
        return
    try:
        os.write(descriptor, content)
    except OSError:
        return  # the disk is full: a part of it is better than nothing
    finally:
        os.close(descriptor)
