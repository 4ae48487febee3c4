"""The first record of each writer of a journal: which process this was, and what its spans are made with."""

from __future__ import annotations

import os
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json, to_json

from .._version import __version__

#: How an opening begins; the record of an event begins with its kind.
_MARK = b'{"opening":'


def key_hash(id_key: bytes) -> str:
    """By what a journal tells whether its ids were derived with this key, without telling the key; "" of none."""
    return blake2b(id_key, digest_size=4, person=b"agentbus.key").hexdigest() if id_key else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Who writes a journal: the source, its process, and what its spans are made with.

    `resource` has the attributes that its spans have, `limits` the span limits by the names that the SDK gives them,
    `sampler` how the sampler describes itself.
    """

    source: str
    resource: Mapping[str, Any] = field(default_factory=dict)
    schema_url: str = ""
    conventions: str = "1.41"
    capture: str = "NO_CONTENT"
    limits: Mapping[str, int | None] = field(default_factory=dict)
    sampler: str = ""
    id_key_hash: str = ""
    #: Seconds that an end waits for its start; negative where nobody has said it.
    grace: float = -1.0
    #: How many spans may be open at once; 0 where nobody has said it.
    max_open_spans: int = 0
    time_ns: int = field(default_factory=time.time_ns)
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    version: str = __version__

    def write(self) -> bytes:
        """The opening as the first record of a journal."""
        said = {name.name: getattr(self, name.name) for name in fields(self)}
        said["resource"] = {name: _said(value) for name, value in self.resource.items()}
        said["limits"] = dict(self.limits)
        return to_json({"opening": said}, inf_nan_mode="constants")

    @classmethod
    def read(cls, data: bytes | None) -> Opening | None:
        """The opening in this record; None where it is none.

        What a later version adds is left out, and so is what is not of the type that it should be.
        """
        if data is None or not data.startswith(_MARK):
            return None
        try:
            said = from_json(data)["opening"]
            known = {name: said[name] for name, kind in _PLAIN.items() if type(said.get(name)) is kind}
            known["resource"] = {str(name): _meant(value) for name, value in dict(said.get("resource") or {}).items()}
            limits = dict(said.get("limits") or {})
            known["limits"] = {name: limit for name, limit in limits.items() if limit is None or type(limit) is int}
            return cls(**known)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


#: The fields that are not taken apart, and what each is.
_PLAIN: dict[str, type] = {
    **dict.fromkeys(
        ("source", "schema_url", "conventions", "capture", "sampler", "id_key_hash", "host", "version"), str
    ),
    **dict.fromkeys(("time_ns", "pid", "max_open_spans"), int),
    "grace": float,
}


def _said(value: Any) -> Any:
    """An attribute of a resource in JSON."""
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_said(item) for item in value]
    return str(value)


def _meant(value: Any) -> Any:
    if isinstance(value, dict):
        return b64decode(value["bytes"])
    return tuple(_meant(item) for item in value) if isinstance(value, list) else value


def is_opening(data: bytes) -> bool:
    """Whether this record is no event, but the opening of a writer."""
    return data.startswith(_MARK)
