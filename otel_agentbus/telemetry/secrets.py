"""Secrets: which keys hold them, where a text assigns them to a name, and how they are taken out of text and JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final

from otel_agentbus.events import JSON

from .rendering import dumps, safe_json
from .secret_patterns import Span, is_card, token_spans

REDACTED: Final[str] = "[REDACTED]"

#: Who wants to know each secret that is taken out.
Found = Callable[[str], object]

#: What the names of secrets contain, in lower case: where one of these stands, an assignment is looked for.
_HINTS = ("pass", "pwd", "secret", "token", "key", "auth", "cred", "cookie", "sharedaccess", "jwt")
_SCHEMES = ("bearer", "basic", "digest", "apikey", "token")
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
#: The rest of a name, and what divides it from its value.
_DIVIDED = re.compile(
    r"""[\w.-]{0,64}+(\\*["'`]?\]?[ \t]{0,3}(?:=>|:=|==?|:)[ \t]{0,3}|[ \t]{1,3}is[ \t]{1,3}|>|[ \t]{1,2})"""
)
_VALUE = re.compile(
    r"""(?i:(?:bearer|basic|digest|token|apikey)[ ]{1,3})?"""
    r"""(?:(?P<escaped>\\+["'])(.{1,2048}?)(?P=escaped)|"((?:\\.|[^"\\\n]){1,2048})"|'((?:\\.|[^'\\\n]){1,2048})'"""
    r"""|([^\s"'\\,;&)}\]<>]{1,2048}))"""
)
_COOKIES = re.compile(r"""()()()()([^\r\n"'\\]{1,4096})""")  # the value is the fifth group, as in _VALUE
_CREDENTIAL = re.compile(r"[ +]{1,3}([\w.~+/=:-]{8,})")
_NO_SECRET = re.compile(
    r"(?i:none|null|true|false|undefined|required|optional|string|[*.]+|\[(?:REDACTED|content)\].*)\Z"
)
_CALL = re.compile(r"[a-z_][a-z_.]*[(\[]")
_VARIABLE = re.compile(r"\$\{?[A-Z_][A-Z0-9_]*\}?\Z|\{\{.*|%\(\w+\)s?\Z|os\.|process\.env")


def secret_spans(text: str) -> list[Span]:
    """Where the secrets of a text stand, in order, merged where they overlap."""
    if len(text) < 6 or (len(text) < 20 and text.isalpha()):
        return []
    found = [*token_spans(text)]
    lower = text.lower()
    if len(lower) != len(text):
        lower = text.translate(_ASCII_LOWER)
    for hint in _HINTS:
        if hint in lower:
            found += _assigned(text, lower, hint)
    for scheme in _SCHEMES:
        if scheme in lower:
            found += _presented(text, lower, scheme)
    return merged(found) if found else found


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, with those that overlap or touch made one."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def _occurrences(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + len(part))


def _presented(text: str, lower: str, scheme: str) -> Iterator[Span]:
    """Credentials behind the name of their scheme, as in a header."""
    for at in _occurrences(lower, scheme):
        value = _CREDENTIAL.match(text, at + len(scheme))
        if value is not None and _is_credential(scheme, value[1]):
            yield value.span(1)


def _is_credential(scheme: str, value: str) -> bool:
    """Prose has "basic knowledge" and "token budget", too."""
    if scheme == "basic":
        try:
            return b":" in base64.b64decode(value + "==")
        except ValueError:
            return False
    return len(value) >= 20 or any(not char.isalpha() for char in value.rstrip(".:-"))


def _assigned(text: str, lower: str, hint: str) -> Iterator[Span]:
    """Values that stand behind a name with this hint in it."""
    at = lower.find(hint)
    while at >= 0:
        end = at + len(hint)
        divided = _DIVIDED.match(text, end)
        if divided is not None:
            end = divided.end()
            span = _value_span(text, divided, _start_of_name(lower, at))
            if span is not None:
                yield span
                end = span[1]
        at = lower.find(hint, end)


def _value_span(text: str, divided: re.Match[str], start: int) -> Span | None:
    name, divider = text[start : divided.start(1)], divided[1].strip()
    if not _divides(name, divider, text[start - 1 : start]) or not is_secret_name(name):
        return None
    value = (_COOKIES if name.lower().endswith(("cookie", "cookies")) else _VALUE).match(text, divided.end())
    if value is None:
        return None
    group = next(index for index in (5, 4, 3, 2) if value[index])
    after = text[value.end() : value.end() + 1] if group == 5 else None
    return value.span(group) if _is_plausible(name, divider, value[group], after) else None


def _start_of_name(lower: str, at: int) -> int:
    start = at
    while start > 0 and at - start < 64 and lower[start - 1] in _NAME_CHARS:
        start -= 1
    if 0 < start < at and lower[start - 1] == "\\" and lower[start] in "nrtbf":
        return start + 1  # the letter belongs to an escape
    return start


def _divides(name: str, divider: str, before: str) -> bool:
    """A space divides a flag from its value, and `>` the tag of an element; neither divides anything else."""
    if not divider:
        return name.startswith("-")
    return divider != ">" or before == "<"


def _is_plausible(name: str, divider: str, value: str, after: str | None) -> bool:
    """Is this a value rather than a placeholder, a variable or prose? `after` is what follows one without quotes."""
    if _NO_SECRET.match(value) or _VARIABLE.match(value):
        return False
    if after is None:
        return True
    if divider.endswith("=") or not divider:
        return after != "(" and not _CALL.match(value) and value != name
    if "pass" in name.lower() and divider != "is":
        return True
    return len(value) >= 16 or any(not char.isalpha() for char in value.rstrip(".,:;!?"))


# -- keys -----------------------------------------------------------------------------------------------------------
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_STRONG = re.compile(
    r"password|passwd|passphrase|passcode|pwd|credential|authorization|apikey|accesskey|privatekey|secretkey|accountkey"
    r"|signingkey|encryptionkey|masterkey|sshkey|accesstoken|authtoken|refreshtoken|sessiontoken|bearertoken|apitoken"
    r"|idtoken|connectionstring|sharedaccess|secretaccess|cardnumber|securitycode"
)
_WHOLE = frozenset(
    ("auth", "cookie", "cookies", "jwt", "otp", "totp", "cvv", "cvc", "ssn", "sig", "pass", "pw", "setcookie")
)
_KEYS_OF = frozenset(
    (
        *("api", "access", "secret", "private", "encryption", "signing", "account", "auth", "master", "ssh"),
        *("shared", "storage", "deploy", "gpg", "pgp", "session", "hmac", "openai", "anthropic", "gemini", "google"),
        *("aws", "azure", "stripe", "groq", "mistral", "cohere", "github", "gitlab", "client", "functions"),
        *("webhook", "admin", "subscription", "license", "service", "server", "x"),
    )
)
#: A name that ends so is about a secret and holds none.
_ABOUT = frozenset(
    (
        *("type", "types", "count", "counts", "limit", "limits", "usage", "url", "uri", "endpoint", "endpoints"),
        *("policy", "length", "len", "expires", "expiry", "expiration", "ttl", "budget", "price", "cost", "costs"),
        *("rate", "method", "methods", "scheme", "schemes", "provider", "required", "enabled", "valid", "hint"),
        *("label", "description", "format", "names", "details", "detail", "error", "errors", "size", "window"),
    )
)
#: Tokens that are counted or paged with, not signed in with.
_COUNTED = frozenset(
    (
        *("max", "min", "num", "total", "usage", "input", "output", "prompt", "completion", "cached", "reasoning"),
        *("next", "page", "continuation", "per", "eos", "bos", "pad", "unk", "cls", "sep", "mask", "special", "stop"),
        *("first", "last", "new", "pagination", "sync", "cursor", "start", "end"),
    )
)


def is_secret_name(name: str) -> bool:
    """Does a key, a header, a variable or a flag of this name hold a secret? Token counts do not."""
    return _is_secret_name(name) if len(name) <= 128 else False


@lru_cache(maxsize=8192)
def _is_secret_name(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _ABOUT or (words[-1] in ("id", "ids") and words[-2:] != ["secret", "id"]):
        return False
    joined = "".join(words)
    if _STRONG.search(joined) or words[-1] in _WHOLE or joined in _WHOLE:
        return True
    if "secret" in words or "secrets" in words or joined.endswith(("secret", "secrets")):
        return True
    if joined.endswith("token"):
        return not (_COUNTED.intersection(words) or joined[:-5] in _COUNTED)
    return words[-1] in ("key", "keys") and len(words) > 1 and words[-2] in _KEYS_OF


# -- JSON -----------------------------------------------------------------------------------------------------------
_NAMES = frozenset(("name", "key", "header", "field", "variable", "param", "parameter", "env", "label"))
_VALUES = ("value", "val", "data", "content", "default", "secret", "text")
_SCHEMA = frozenset(
    ("type", "title", "description", "format", "minLength", "maxLength", "pattern", "anyOf", "nullable")
)
_MAX_NESTED = 1 << 17


def _ignore(secret: str) -> None:
    """Nobody wants to know."""


def scrub_text(text: str, found: Found = _ignore) -> str:
    """The text without its secrets; the same object if it holds none."""
    spans = secret_spans(text)
    if not spans:
        return text
    kept, end = [], 0
    for start, stop in spans:
        kept += [text[end:start], REDACTED]
        found(text[start:stop])
        end = stop
    return "".join([*kept, text[end:]])


def scrub(value: JSON, found: Found = _ignore) -> JSON:
    """JSON without its secrets, also those in JSON that is a string in it; the same object if it holds none.

    `found` hears every secret, so that it can be taken out of an error text that repeats it without its name.
    """
    if isinstance(value, str):
        return _scrub_string(value, found)
    if isinstance(value, dict):
        return _scrub_object(value, found)
    if isinstance(value, list):
        return _scrub_list(value, found)
    if type(value) is int and value > 10**13 and is_card(str(value)):
        return REDACTED
    return value


def _scrub_string(text: str, found: Found) -> str:
    if text[:1] in ("{", "[") and len(text) <= _MAX_NESTED:
        try:
            nested = safe_json(json.loads(text), len(text), len(text))
        except (ValueError, RecursionError):
            return scrub_text(text, found)
        scrubbed = scrub(nested, found)
        return text if scrubbed is nested else dumps(scrubbed)
    return scrub_text(text, found)


def _scrub_object(value: dict[str, JSON], found: Found) -> JSON:
    named = _names_secret(value)
    scrubbed: dict[str, JSON] = {}
    same = True
    for key, item in value.items():
        secret = is_secret_name(key) or (named and key in _VALUES)
        clean = _withheld(item, found) if secret else scrub(item, found)
        clean_key = _clean_key(key) if len(key) >= 16 else key
        same = same and clean is item and clean_key is key
        scrubbed[clean_key] = clean
    return value if same else scrubbed


def _names_secret(value: dict[str, JSON]) -> bool:
    """Is this a pair such as {"name": "api_key", "value": "..."}?"""
    if _NAMES.isdisjoint(value):
        return False
    return any(isinstance(name := value.get(key), str) and is_secret_name(name) for key in _NAMES)


@lru_cache(maxsize=4096)
def _clean_key(key: str) -> str:
    return scrub_text(key)


def _withheld(value: JSON, found: Found) -> JSON:
    """What stands under the name of a secret."""
    if value is None or isinstance(value, bool) or value in ("", REDACTED):
        return value
    if isinstance(value, dict) and "type" in value and value.keys() <= _SCHEMA:
        return scrub(value, found)  # the schema of a tool's argument, not an argument
    for text in _strings(value):
        found(text)
    return REDACTED


def _strings(value: JSON) -> Iterator[str]:
    if isinstance(value, (str, int, float)):
        yield str(value)
    elif isinstance(value, (list, dict)):
        for item in value if isinstance(value, list) else value.values():
            yield from _strings(item)


def _scrub_list(value: list[JSON], found: Found) -> JSON:
    scrubbed: list[JSON] = []
    before: JSON = None
    for item in value:
        withheld = isinstance(before, str) and isinstance(item, str) and before[:1] == "-" and is_secret_name(before)
        clean = _withheld(item, found) if withheld else _scrub_item(item, found)
        scrubbed.append(clean)
        before = item
    return value if all(map(_is, scrubbed, value)) else scrubbed


def _is(one: object, other: object) -> bool:
    return one is other


def _scrub_item(item: JSON, found: Found) -> JSON:
    """An item of a list, which may be one header of many: ["Authorization", "..."]."""
    if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and is_secret_name(item[0]):
        return [item[0], _withheld(item[1], found)]
    return scrub(item, found)
