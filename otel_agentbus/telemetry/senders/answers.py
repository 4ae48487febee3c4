"""What an endpoint's answer means for the batch: status codes of HTTP and gRPC, and when it wants to be asked again."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime

from .verdict import Kind

_TOO_LARGE = re.compile(r"too large|larger than|too big", re.IGNORECASE)

_HTTP: dict[int, Kind] = {
    401: "unauthorised",
    403: "unauthorised",
    407: "unauthorised",
    413: "too_large",
    400: "refused",
    409: "refused",
    415: "refused",
    422: "refused",
    # Of the client's errors these say: not now, or not here.
    402: "unavailable",
    404: "unavailable",
    405: "unavailable",
    408: "unavailable",
    410: "unavailable",
    421: "unavailable",
    423: "unavailable",
    425: "unavailable",
    426: "unavailable",
    429: "unavailable",
    499: "unavailable",
    500: "failed",
}

_GRPC: dict[str, Kind] = {
    "OK": "delivered",
    "UNAUTHENTICATED": "unauthorised",
    "PERMISSION_DENIED": "unauthorised",
    "INVALID_ARGUMENT": "refused",
    "FAILED_PRECONDITION": "refused",
    "ALREADY_EXISTS": "refused",
    "INTERNAL": "failed",
    "UNKNOWN": "failed",
}


def of_http(status: int, words: str = "") -> Kind:
    """What this HTTP status means, with the words that came with it."""
    if 200 <= status < 300:
        return "delivered"
    kind = _HTTP.get(status) or ("failed" if 400 <= status < 500 else "unavailable")
    # The Collector answers 400 to a body over its limit.
    return "too_large" if kind == "refused" and _TOO_LARGE.search(words) else kind


def of_grpc(code: str, words: str = "") -> Kind:
    """The same for the name of a gRPC code."""
    if code in {"RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "INVALID_ARGUMENT"} and _TOO_LARGE.search(words):
        return "too_large"
    if code == "UNKNOWN" and "Stream removed" in words:  # the connection has gone, nobody has judged the batch
        return "unavailable"
    return _GRPC.get(code, "unavailable")


def retry_after(text: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, given as a number or as a date; None if it says nothing."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return _until(text)
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _until(text: str) -> float | None:
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):  # also a year, an hour or a zone beyond all numbers
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(at.timestamp() - time.time(), 0.0)


def retry_info(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """The seconds that a google.rpc.RetryInfo in the trailing metadata asks for; None if there is none."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped, unused-ignore]
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped, unused-ignore]

    for key, value in metadata:
        info = RetryInfo()
        try:
            if key == "google.rpc.retryinfo-bin":
                info.ParseFromString(value)
            elif key != "grpc-status-details-bin" or not any(
                detail.Unpack(info) for detail in Status.FromString(value).details
            ):
                continue
        except (DecodeError, TypeError, ValueError):  # somebody else's bytes
            continue
        if info.HasField("retry_delay"):
            return max(float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9), 0.0)
    return None
