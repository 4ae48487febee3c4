"""What secrets look like: the tokens that have a prefix, and those that are known by what surrounds them.

The table is our own. detect-secrets and the ports of gitleaks' rules scan files line by line and report; they cost
milliseconds for each text, and what this needs is spans to replace, on the agent's own thread. So every pattern here
begins with a literal that is looked for first (a substring search is a hundred times cheaper than a regular
expression), and takes linear time. Where a pattern may hit too much or too little, it hits too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

# -- tokens with a prefix -------------------------------------------------------------------------------------------
_W, _A = "[A-Za-z0-9_-]", "[A-Za-z0-9]"

#: Prefix and rest of the tokens of those who give theirs a prefix.
_TOKENS: tuple[tuple[str, str], ...] = (
    ("ghp_", rf"{_A}{{16,}}"),  # GitHub: personal, OAuth, user-to-server, server-to-server, refresh, fine-grained
    ("gho_", rf"{_A}{{16,}}"),
    ("ghu_", rf"{_A}{{16,}}"),
    ("ghs_", rf"{_A}{{16,}}"),
    ("ghr_", rf"{_A}{{16,}}"),
    ("github_pat_", r"\w{16,}"),
    ("glpat-", r"[\w.-]{16,}"),  # GitLab: personal, deploy, runner, trigger, job
    ("gldt-", r"[\w.-]{16,}"),
    ("glrt-", r"[\w.-]{16,}"),
    ("glptt-", r"[\w.-]{16,}"),
    ("glcbt-", r"[\w.-]{16,}"),
    ("xox", r"[abcdeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{11,}"),  # Slack
    ("xapp-", r"[A-Za-z0-9-]{16,}"),
    ("hooks.slack.com/services/", r"[A-Za-z0-9/]{16,}"),
    ("/api/webhooks/", rf"\d+/{_W}{{32,}}"),  # Discord
    ("AKIA", r"[A-Z0-9]{16}"),  # AWS
    ("ASIA", r"[A-Z0-9]{16}"),
    ("ABIA", r"[A-Z0-9]{16}"),
    ("AIza", rf"{_W}{{30,}}"),  # Google
    ("ya29.", r"[\w.-]{16,}"),
    ("GOCSPX-", rf"{_W}{{16,}}"),
    ("sk_live_", rf"{_A}{{10,}}"),  # Stripe
    ("sk_test_", rf"{_A}{{10,}}"),
    ("rk_live_", rf"{_A}{{10,}}"),
    ("rk_test_", rf"{_A}{{10,}}"),
    ("whsec_", r"[A-Za-z0-9+/=]{16,}"),
    ("npm_", rf"{_A}{{20,}}"),
    ("pypi-", rf"(?=[a-z_-]{{0,32}}[A-Z0-9]){_W}{{24,}}"),
    ("SG.", rf"{_W}{{12,}}\.{_W}{{12,}}"),  # SendGrid
    ("dop_v1_", rf"{_A}{{32,}}"),  # DigitalOcean
    ("doo_v1_", rf"{_A}{{32,}}"),
    ("shpat_", rf"{_A}{{16,}}"),  # Shopify
    ("shpss_", rf"{_A}{{16,}}"),
    ("shpca_", rf"{_A}{{16,}}"),
    ("sq0atp-", rf"{_W}{{16,}}"),  # Square
    ("sq0csp-", rf"{_W}{{16,}}"),
    ("dapi", r"[0-9a-f]{32}"),  # Databricks
    ("hvs.", rf"{_W}{{20,}}"),  # Vault
    ("lin_api_", rf"{_A}{{20,}}"),  # Linear
    ("ntn_", rf"{_A}{{30,}}"),  # Notion
    ("secret_", rf"{_A}{{32,}}"),
    ("gsk_", rf"{_A}{{20,}}"),  # Groq
    ("xai-", rf"{_A}{{20,}}"),
    ("pplx-", rf"{_A}{{20,}}"),
    ("tvly-", rf"{_W}{{16,}}"),
    ("pcsk_", rf"{_W}{{20,}}"),
    ("nvapi-", rf"{_W}{{20,}}"),
    ("lsv2_", r"(?:pt|sk)_\w{16,}"),  # LangSmith
    ("pylf_v", r"\d+_\w{16,}"),  # Logfire
    ("sntrys_", r"[\w+/=-]{20,}"),  # Sentry
    ("NRAK-", rf"{_A}{{20,}}"),  # New Relic
    ("glsa_", r"\w{20,}"),  # Grafana
    ("glc_", r"[A-Za-z0-9+/=]{30,}"),
    ("phx_", rf"{_W}{{20,}}"),  # PostHog
    ("ATATT3", r"[\w=-]{20,}"),  # Atlassian
    ("dckr_pat_", rf"{_W}{{16,}}"),  # Docker
    ("AGE-SECRET-KEY-1", r"[A-Z0-9]{20,}"),
    ("tskey-", rf"{_W}{{16,}}"),  # Tailscale
    ("figd_", rf"{_W}{{20,}}"),  # Figma
    ("PMAK-", rf"{_W}{{20,}}"),  # Postman
    ("rubygems_", r"[0-9a-f]{32,}"),
)

#: Those whose prefix is the end of many a word, too: a letter or digit before it must be that of an escape.
_BOUNDED: tuple[tuple[str, str], ...] = (
    ("eyJ", rf"{_W}{{6,}}\.{_W}{{6,}}(?:\.{_W}*){{0,3}}"),  # JWT, JWE
    ("sk-", rf"{_W}{{16,}}"),  # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse
    ("hf_", rf"{_A}{{16,}}"),  # Hugging Face
    ("SK", r"[0-9a-f]{32}"),  # Twilio
    ("r8_", rf"{_A}{{20,}}"),  # Replicate
    ("fw_", rf"{_A}{{20,}}"),  # Fireworks
    ("re_", rf"{_A}{{6,}}_{_A}{{16,}}"),  # Resend
    ("sbp_", r"[0-9a-f]{32,}"),  # Supabase
    ("key-", r"[0-9a-f]{32}"),  # Mailgun
    ("sl.", rf"{_W}{{60,}}"),  # Dropbox
)


def _bounded(prefix: str) -> str:
    before = (rf"(?<![A-Za-z0-9]{prefix})", rf"(?<=\\[nrtbf]{prefix})", rf"(?<=%[0-9A-Fa-f]{{2}}{prefix})")
    return f"{prefix}(?:{'|'.join(before)})"


def _tables() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The patterns by the character without which none of them can be in a text."""
    tables: dict[str, list[tuple[str, re.Pattern[str]]]] = {"_": [], "-": [], ".": [], "": []}
    rows = [(prefix, re.escape(prefix) + rest) for prefix, rest in _TOKENS]
    rows += [(prefix, _bounded(re.escape(prefix)) + rest) for prefix, rest in _BOUNDED]
    for prefix, pattern in rows:
        needed = next(mark for mark in tables if mark in prefix)
        tables[needed].append((prefix, re.compile(pattern)))
    return tables


_BY_MARK = _tables()
_SHORTEST = 16

# -- secrets that are known by their surroundings -------------------------------------------------------------------
_PRIVATE_KEY = re.compile(
    r"-----BEGIN[A-Z0-9 ]{1,40}PRIVATE KEY(?: BLOCK)?-----(?:(?!-----)[\s\S])*(?:-----END[A-Z0-9 ]{0,50}-----)?"
)
_USER_INFO = re.compile(r"""://[^\s/:@"'`<>\\]{0,256}:([^\s/"'`<>\\]{1,512})@""")
_USER_INFO_OF_STORE = re.compile(r"""(?<!http)(?<!https)://[^\s/:@"'`<>\\]{0,256}:([^\s"'`<>\\]{1,256})@""")
_USER_TOKEN = re.compile(r"://([\w.~%-]{16,256})@")
_ESCAPED = re.compile(r".?\\[nrtbf]\Z|%[0-9A-Fa-f]{2}\Z", re.DOTALL)
_BASE64_KEY = re.compile(r"[A-Za-z0-9+/]{86}\Z")
_SIGNATURE = re.compile(r"""(?<=[?&;]sig=)([^&\s"']{8,512})""")
_AZURE_CLIENT = re.compile(r"[\w.~]{3}\dQ~[\w.~-]{31,34}")
_TELEGRAM = re.compile(rf"(?<=\d):AA{_W}{{32,35}}")
_CARD = re.compile(
    r"[2-6](?:(?<![\d.][2-6])|(?<=%[0-9A-Fa-f]{2}[2-6]))"
    r"(?:\d{3}(?:[ -]?\d{4}){2}[ -]?\d{2,4}|[47]\d\d[ -]\d{6}[ -]\d{5})(?![\d.]\d|\d)"
)


def token_spans(text: str) -> Iterator[Span]:
    """Where a text holds what can only be a secret, or the number of a payment card."""
    yield from _prefixed(text)
    yield from _surrounded(text)


def _prefixed(text: str) -> Iterator[Span]:
    # No token is short or has a space: in prose there is nothing to search.
    long = "\n".join([word for word in text.split() if len(word) >= _SHORTEST])
    if not long:
        return
    for mark, patterns in _BY_MARK.items():
        if mark in long:
            for prefix, pattern in patterns:
                if prefix in long:
                    yield from (match.span() for match in pattern.finditer(text))
    if "-----BEGIN" in text:
        yield from (match.span() for match in _PRIVATE_KEY.finditer(text))


def _surrounded(text: str) -> Iterator[Span]:
    if "://" in text and "@" in text:
        for pattern in (_USER_INFO, _USER_INFO_OF_STORE, _USER_TOKEN):
            yield from (match.span(1) for match in pattern.finditer(text))
    if "==" in text:
        yield from _base64_keys(text)
    if "Q~" in text:
        yield from (match.span() for match in _AZURE_CLIENT.finditer(text))
    if "sig=" in text:
        yield from (match.span(1) for match in _SIGNATURE.finditer(text))
    if ":AA" in text:
        yield from (match.span() for match in _TELEGRAM.finditer(text))
    yield from (match.span() for match in _CARD.finditer(text) if is_card(match[0]))


def _base64_keys(text: str) -> Iterator[Span]:
    """Keys of 64 bytes in base64 (Azure storage, Service Bus ...), found from their end."""
    end = text.find("==")
    while end >= 0:
        start = end - 86
        if start >= 0 and _BASE64_KEY.match(text, start, end) and _begins(text, start):
            yield start, end + 2
        end = text.find("==", end + 2)


def _begins(text: str, at: int) -> bool:
    """Does something begin here, rather than go on? The end of an escape is no part of it."""
    return at == 0 or not text[at - 1].isalnum() or _ESCAPED.match(text[max(0, at - 3) : at]) is not None


def is_card(number: str) -> bool:
    """Does this have the form of a payment card's number, and the right check digit?"""
    if not _CARD.fullmatch(number):
        return False
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    return sum(sum(divmod(2 * digit, 10)) if index % 2 else digit for index, digit in enumerate(digits)) % 10 == 0
