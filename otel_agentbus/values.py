"""What a variable may say: the texts of settings turned into checked values, and the words for what is expected."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, get_args
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, Secret, SecretBytes

Signal = Literal["traces", "metrics"]
Protocol = Literal["grpc", "http/protobuf"]
Compression = Literal["none", "gzip", "deflate"]
Conventions = Literal["1.41", "2026-10", "both"]
Capture = Literal["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"]
Pairs = tuple[tuple[str, str], ...]

#: What a directory says that is not to be.
OFF = "off"
#: How the URL of a broker may begin.
BROKER_SCHEMES = ("redis", "rediss", "unix")
SIGNALS: tuple[Signal, ...] = get_args(Signal)
#: Settings that name things, of which an empty list is a choice.
_NONE = {"aliases", "instrument", "traces_exporter", "metrics_exporter"}
#: The backends for whose own names there are aliases (`telemetry.aliases` has the table).
ALIASES = ("langfuse", "langsmith", "logfire", "openinference", "openlit", "proposal", "sentry")
RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio")
SAMPLERS = ("always_on", "always_off", "parentbased_always_on", "parentbased_always_off", *RATIO_SAMPLERS)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\x20\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")  # what the official exporters accept
_GRPC_NAME = re.compile(r"(?!grpc-)[a-z0-9_.\-]+(?<!-bin)")


class Accepts(str):
    """What a setting may be, in the words of the error message."""

    __slots__ = ()


def masked(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    return re.sub(r"\?.*", "?***", re.sub(r"//[^/@]*@", "//***@", url))


def shown(name: str, value: object) -> str:
    """The value of a setting as it may be shown, secrets masked."""
    if value is None or value == ():
        return "none" if value == () and name in _NONE else "unset"
    if isinstance(value, SecretBytes):
        return "***" if value.get_secret_value() else "unset"
    if isinstance(value, Secret):
        return ",".join(f"{header}=***" for header, _ in revealed(value))
    if isinstance(value, tuple):
        return ",".join(item if isinstance(item, str) else "=".join(item) for item in value)
    if isinstance(value, str):
        return masked(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def quoted(name: str, value: object) -> str:
    """The value of a setting as its error message quotes it."""
    if name == "id_key" or name.endswith("headers"):
        return "(hidden)"
    text = repr(masked(value) if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def revealed(headers: Secret[Pairs] | None) -> Pairs:
    """The headers themselves; for exporters only."""
    return headers.get_secret_value() if headers else ()


def is_number(text: str) -> bool:
    """Whether the SDK, too, would read a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def is_share(text: str) -> bool:
    """Whether this is a share that a sampler can keep."""
    return is_number(text) and 0 <= float(text) <= 1


def misfit(url: str | None, protocol: Protocol) -> str | None:
    """Why this protocol cannot use the endpoint."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        reachable = parts.port != 0 and not re.search(r"\s", url)
    except ValueError:
        reachable = False
    if not reachable:
        return "it is not a URL; write it like http://localhost:4318"
    if protocol == "grpc":
        wrong = "://" in url and parts.scheme not in {"http", "https"}
        return "over gRPC write host:port, http://host:port or https://host:port" if wrong else None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "over HTTP write http://host:port or https://host:port, or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
    return None


def unsendable(headers: Pairs, protocol: Protocol) -> str | None:
    """Why this protocol cannot carry the headers, on which every export would fail."""
    grpc = protocol == "grpc"
    for name, text in headers:
        fits = _GRPC_NAME.fullmatch(name) if grpc else _TOKEN.fullmatch(name)
        if not fits:
            return f"{protocol} cannot carry a header of the name {name!r}; rename it"
        if not text.isprintable() or not (text.isascii() or (not grpc and max(text) <= "\xff")):
            return f"{protocol} cannot carry the value of {name}; it must be one line of printable ASCII"
    return None


def unpaired(key: str | None, certificate: str | None, protocol: Protocol) -> str | None:
    """Why this protocol cannot use the one without the other."""
    if key and not certificate:
        return "a client key needs a client certificate; set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE too"
    if certificate and not key and protocol == "grpc":
        return "over gRPC a client certificate needs a key; set OTEL_EXPORTER_OTLP_CLIENT_KEY too"
    return None


def squeezed(compression: Compression, protocol: Protocol) -> str | None:
    """Why this protocol cannot compress so."""
    return "over gRPC set it to gzip or none" if compression == "deflate" and protocol == "grpc" else None


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _otel_flag(value: object) -> object:
    """The specification knows true and false only: the SDK silently takes 1, on and yes for false."""
    text = _lower(value)
    if text in {True, False, "true", "false"}:
        return text in {True, "true"}
    raise ValueError("set it to true or false; OpenTelemetry takes every other word for false")


def _names(value: object) -> object:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Iterable):
        return value
    lowered = (_lower(name) for name in names)
    return tuple(dict.fromkeys(name for name in lowered if name != ""))


def _cased_names(value: object) -> object:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Iterable):
        return value
    return tuple(dict.fromkeys(text for name in names if (text := str(name).strip())))


def _exporters(value: object) -> object:
    names = _names(value)
    if not isinstance(names, tuple):
        return value
    unknown = [name for name in names if name not in {"otlp", "console", "none"} and not _is_installed_exporter(name)]
    if not names or unknown or ("none" in names and len(names) > 1):
        raise ValueError("set it to otlp, to console, to otlp,console or to none; for others pass your own provider")
    return () if names == ("none",) else names


def _is_installed_exporter(name: object) -> bool:
    """Whether a package brings it: an application's provider may use it, so that the variable is not wrong."""
    groups = ("opentelemetry_traces_exporter", "opentelemetry_metrics_exporter")
    return any(entry_points(group=group, name=str(name)) for group in groups)


def _instruments(value: object) -> object:
    names = _names(value)
    if isinstance(names, tuple) and len(names) > 1 and {"none", "auto"} & set(names):
        raise ValueError("none and auto stand alone; name the frameworks, such as pydantic-ai, or write one of the two")
    return () if names == ("none",) else names


def _aliases(value: object) -> object:
    names = _names(value)
    if not isinstance(names, tuple) or names == ("none",):
        return () if names == ("none",) else names
    if unknown := [name for name in names if name not in ALIASES]:
        raise ValueError(f"there are no aliases for {unknown[0]}; name some of {', '.join(ALIASES)}")
    if {"langfuse", "proposal"} <= set(names):
        raise ValueError("langfuse counts proposal's gen_ai.usage.cost.amount as tokens; leave out one of the two")
    return names


def _headers(value: object) -> object:
    """The pairs of `name=value,name=value`, percent-decoded as the official exporters do; a mapping as it is."""
    if isinstance(value, Mapping):
        return tuple((str(name).lower(), str(text)) for name, text in value.items())
    if not isinstance(value, str):
        return value
    entries = (entry.strip() for entry in value.split(","))
    return tuple(_header(number, entry) for number, entry in enumerate(entries, 1) if entry)


def _header(number: int, entry: str) -> tuple[str, str]:
    name, equals, text = (part.strip(" \t") for part in entry.partition("="))
    if not equals or not _TOKEN.fullmatch(name):  # what stands there may be the secret: say only which entry
        raise ValueError(f"entry {number} is not name=value; separate entries by commas and percent-encode values")
    if not _HEADER_VALUE.fullmatch(text):
        raise ValueError(f"the value of {name} holds a character to be percent-encoded, such as %3B for a semicolon")
    if " " in text:  # not percent-encoded at all: other SDKs allow it, so do the exporters
        return name.lower(), text
    return unquote(name).strip().lower(), unquote(text).strip()


def _attributes(value: object) -> object:
    if isinstance(value, Mapping):
        return tuple((str(name), str(text)) for name, text in value.items())
    if not isinstance(value, str):
        return value
    entries = [entry.partition("=") for entry in value.split(",") if entry.strip()]
    if any(not equals or not name.strip() for name, equals, _ in entries):
        raise ValueError("write name=value,name=value, with a comma inside a value as %2C")
    return tuple((unquote(name.strip()), unquote(text.strip())) for name, _, text in entries)


def _capture(value: object) -> object:
    text = value.strip().upper() if isinstance(value, str) else value
    if text in {True, "TRUE"}:
        return "SPAN_ONLY"
    return "NO_CONTENT" if text in {False, "FALSE"} else text


def _readable(path: str, form: str = "PEM") -> str:
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise ValueError(f"there is no such file that can be read; give the path of a {form} file")
    return path


def _sampler(name: str) -> str:
    if name not in SAMPLERS and not entry_points(group="opentelemetry_traces_sampler", name=name):
        raise ValueError(f"set it to one of {', '.join(SAMPLERS)}, or install the package that brings this sampler")
    return name


def _path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _directory(text: str | None) -> str | None:
    """A path, made absolute: the program may change its directory later."""
    if text is None or text.lower() in {OFF, "none"}:
        return None if text is None else OFF
    path = os.path.abspath(os.path.expanduser(text))
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError("that is a file; give a directory, which is made where it is missing, or off")
    return path


def _broker(url: str | None) -> str | None:
    if url is None or url.lower() in {OFF, "none"}:
        return None
    parts = urlsplit(url)
    reachable = parts.hostname or (parts.scheme == "unix" and parts.path)
    if parts.scheme not in BROKER_SCHEMES or not reachable:
        raise ValueError("write it like redis://localhost:6379/0, rediss://user:password@host:6380/0 or unix:///path")
    return url


def _broker_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ValueError("give it at most 64 letters, digits, dots, dashes and underscores")
    return name


def complaint(spoken: str, quoted_value: str, metadata: Iterable[object], detail: Mapping[str, Any]) -> str:
    """One sentence on a setting that is wrong: its name, its value and the remedy."""
    accepts = next((item for item in metadata if isinstance(item, Accepts)), "something else")
    remedy = f"set it to {accepts}, or unset it"
    if detail["type"] == "value_error":
        remedy = str(detail["ctx"]["error"])
    return f"{spoken} is {quoted_value}: {remedy}."


def _key(key: SecretBytes) -> SecretBytes:
    if (size := len(key.get_secret_value())) > 64:
        raise ValueError(f"it has {size} bytes; give at most 64")
    return key


Flag = Annotated[bool, BeforeValidator(_lower), Accepts("true or false")]
OtelFlag = Annotated[bool, BeforeValidator(_otel_flag), Accepts("true or false")]
Count = Annotated[int, Field(ge=1), Accepts("a whole number, 1 or more")]
Limit = Annotated[int | None, Field(ge=0), Accepts("a whole number, 0 or more")]
Grace = Annotated[float, Field(ge=0, allow_inf_nan=False), Accepts("a number of seconds, 0 or more, such as 2.5")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Accepts("a number of seconds above 0, such as 2.5")]
Millis = Annotated[float, Field(gt=0, allow_inf_nan=False), Accepts("a number of milliseconds above 0, such as 5000")]
Key = Annotated[SecretBytes, AfterValidator(_key), Accepts("a text of at most 64 bytes")]
Flavour = Annotated[Conventions, BeforeValidator(_lower), Accepts("1.41, 2026-10 or both")]
Captured = Annotated[
    Capture, BeforeValidator(_capture), Accepts("NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, true or false")
]
Instruments = Annotated[
    tuple[str, ...], BeforeValidator(_instruments), Accepts("none, auto, or framework names separated by commas")
]
Aliases = Annotated[tuple[str, ...], BeforeValidator(_aliases), Accepts(f"none, or some of {', '.join(ALIASES)}")]
Exporters = Annotated[tuple[str, ...] | None, BeforeValidator(_exporters), Accepts("otlp, console or none")]
Headers = Annotated[Secret[Pairs] | None, BeforeValidator(_headers), Accepts("name=value,name=value")]
Attributes = Annotated[Pairs, BeforeValidator(_attributes), Accepts("name=value,name=value")]
Text = Annotated[str | None, Accepts("text")]
Sampler = Annotated[str, BeforeValidator(_lower), AfterValidator(_sampler), Accepts("the name of a sampler")]
File = Annotated[str | None, AfterValidator(lambda path: path and _readable(path)), Accepts("the path of a PEM file")]
TomlFile = Annotated[
    str | None, AfterValidator(lambda path: path and _readable(path)), Accepts("the path of a TOML file")
]
Directory = Annotated[str | None, BeforeValidator(_path), AfterValidator(_directory), Accepts("a directory, or off")]
Broker = Annotated[str | None, AfterValidator(_broker), Accepts("a URL such as redis://localhost:6379/0, or off")]
BrokerName = Annotated[str, AfterValidator(_broker_name), Accepts("a short name")]
Shards = Annotated[int, Field(ge=1, le=1024), Accepts("a whole number, 1 to 1024")]
BaggageNames = Annotated[
    tuple[str, ...], BeforeValidator(_cased_names), Accepts("names of baggage entries separated by commas")
]
JournalSync = Annotated[Literal["event", "batch"], BeforeValidator(_lower), Accepts("event or batch")]
Wire = Annotated[Protocol | None, BeforeValidator(_lower), Accepts("grpc or http/protobuf; Python has no http/json")]
Squeeze = Annotated[Compression | None, BeforeValidator(_lower), Accepts("gzip, deflate or none")]
OptionalSeconds = Annotated[
    float | None, Field(gt=0, allow_inf_nan=False), Accepts("a number of seconds above 0, such as 2.5")
]
OptionalFlag = Annotated[bool | None, BeforeValidator(_otel_flag), Accepts("true or false")]
