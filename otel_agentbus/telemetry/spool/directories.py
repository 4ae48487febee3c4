"""Where spools lie: one private directory for each endpoint, protocol and set of headers, so that no two are mixed up.

A directory is named by the host, to be read, and by a hash of all three, to be told apart. No header's value can be
read from it, nor from the `about.json` inside.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from otel_agentbus.journal import writers
from otel_agentbus.journal.places import make_private, open_private
from otel_agentbus.targets import Target
from otel_agentbus.values import masked

from .dead_letters import DeadLetters

ABOUT = "about.json"
_LONGEST_HOST = 64


@dataclass(frozen=True, slots=True)
class About:
    """What a spool directory is for, as it may be shown."""

    endpoint: str
    protocol: str = ""
    #: Names only.
    headers: tuple[str, ...] = ()
    #: RFC 3339; empty until it has been written down.
    created: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The name of a spool directory, and what it is for."""

    key: str
    about: About


@dataclass(frozen=True, slots=True)
class Found:
    """A spool directory as it is found on disk."""

    key: str
    path: Path
    #: None where nobody has written it down.
    about: About | None
    #: Spans that wait to be sent.
    waiting: int
    #: What they take on disk.
    bytes: int
    #: Spans in the file of dead letters.
    dead_letters: int
    #: Whether a process that is alive holds a part of it.
    owned: bool


def key_of(target: Target) -> str:
    """The name of the directory for what this target does not take."""
    return place_of(target).key


def place_of(inner: object, key: str | None = None) -> Place:
    """The directory of a `Target`, of a sender that has one, or of any exporter; `key` is its name where given."""
    found = inner if isinstance(inner, Target) else getattr(inner, "_target", None)
    place = _of_target(found) if isinstance(found, Target) else _of_exporter(inner)
    return Place(_readable(key), place.about) if key else place


def _of_target(target: Target) -> Place:
    identity = [target.credential_provider or "", target.client_certificate or ""]
    digest = _digest(target.endpoint, target.protocol, target.headers, identity)
    about = About(target.shown, target.protocol, _names(target.headers))
    return Place(f"{_host(target.endpoint)}-{digest}", about)


def _of_exporter(exporter: object) -> Place:
    """Of somebody else's exporter nothing is known but its class and, by custom, two attributes."""
    kind = f"{type(exporter).__module__}.{type(exporter).__qualname__}"
    endpoint = getattr(exporter, "_endpoint", None)
    endpoint = endpoint if isinstance(endpoint, str) else ""
    headers = _pairs(getattr(exporter, "_headers", None))
    host = _host(endpoint) if endpoint else type(exporter).__name__
    about = About(masked(endpoint) or type(exporter).__name__, kind, _names(headers))
    return Place(f"{_readable(host)}-{_digest(endpoint, kind, headers, [])}", about)


def _digest(endpoint: str, protocol: str, headers: Iterable[tuple[str, str]], identity: list[str]) -> str:
    digest = blake2b(digest_size=8, person=b"agentbus.spool")
    for part in (endpoint, protocol, *identity, *(text for pair in _in_order(headers) for text in pair)):
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.hexdigest()


def _in_order(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers)


def _names(headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name, _ in _in_order(headers)))


def _pairs(headers: Any) -> list[tuple[str, str]]:
    """Headers as exporters keep them: a mapping, pairs, or a text."""
    if isinstance(headers, str | bytes):
        return [("", str(headers))]
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    try:
        return [(str(name), str(value)) for name, value in pairs]
    except (TypeError, ValueError):
        return [("", repr(headers))]


def _host(endpoint: str) -> str:
    """The host and port, which is all of an endpoint that a name may show."""
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    try:
        port = f"-{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return _readable(f"{parts.hostname or 'endpoint'}{port}")


def _readable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:_LONGEST_HOST].lstrip(".") or "spool"


def is_read_only(directory: Path) -> bool:
    """Whether this directory cannot be written to, or not be made where it is missing; nothing is tried."""
    while not os.path.exists(directory) and directory != directory.parent:  # a Path raises where it may not look
        directory = directory.parent
    return os.path.isdir(directory) and not os.access(directory, os.W_OK | os.X_OK)


def describe(directory: Path, about: About) -> None:
    """Write down what the directory is for, once; raises OSError.

    Others may do so at the same time, in this process or, with the same number, in another container.
    """
    path = directory / ABOUT
    if path.exists():
        return
    make_private(directory)
    moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    text = json.dumps({**asdict(about), "created": moment}, indent=1)
    new = directory / f"{ABOUT}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(open_private(new, os.O_WRONLY | os.O_EXCL), "w") as file:
            file.write(text + "\n")
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def about(directory: Path) -> About | None:
    """What is written down about this directory; None where nothing can be read."""
    try:
        said = json.loads((directory / ABOUT).read_text())
        return About(str(said["endpoint"]), str(said["protocol"]), tuple(map(str, said["headers"])), said["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def spools(root: str | Path) -> list[Found]:
    """The spool directories below this one, by name; none where there is none."""
    try:
        inside = sorted(path for path in Path(root).iterdir() if path.is_dir())
    except OSError:
        return []
    return [found for path in inside if (found := look(path)) is not None]


def look(directory: Path) -> Found | None:
    """What one directory holds; None where it is no spool."""
    known = about(directory)
    try:
        logs = writers(directory)
        waiting = sum(record.items for log in logs for record in log.read(log.acked))
        size, owned = sum(log.bytes for log in logs), any(log.alive for log in logs)
    except (OSError, ValueError):
        return None
    letters = DeadLetters(directory, 0).spans
    if known is None and not logs and not letters:
        return None
    return Found(directory.name, directory, known, waiting, size, letters, owned)
