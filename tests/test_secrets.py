"""Which keys hold secrets, what secrets look like, and what is left of JSON without them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus.events import JSON
from otel_agentbus.telemetry.secrets import REDACTED, is_secret_name, scrub, scrub_text
from tests.planted import ASSIGNED, TOKENS


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_of_a_known_form_goes_wherever_it_stands(kind: str) -> None:
    token = TOKENS[kind]
    for text in (token, f"it is {token}, they said", f"x={token}", f'"{token}"', f"line\\n{token}\\n", f"%20{token}"):
        assert token not in scrub_text(text)
        assert REDACTED in scrub_text(text)


@pytest.mark.parametrize("kind", ASSIGNED)
def test_a_secret_that_is_assigned_to_its_name_goes_and_the_name_stays(kind: str) -> None:
    text, secret = ASSIGNED[kind]
    scrubbed = scrub_text(text)
    assert secret not in scrubbed
    assert REDACTED in scrubbed
    assert scrubbed[:4] == text[:4]


@pytest.mark.parametrize(
    "text",
    [
        "The token budget is 12, and a basic knowledge of secret agents helps: they keep it.",
        "max_tokens=100, input_tokens: 12, token_count=7",
        "a task-list-of-many-long-words and a risk-assessment-for-everybody",
        "password=$DB_PASSWORD and token = get_token(user) and password: none",
        "order 4111111111111112 of 2026-11-21T10:11:12, 1700000000000000000 ns",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "see https://example.com:8080/a@b and mail bob@example.com",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "The author wrote: keyboards have keys; monkeys do not.",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub_text(text) is text


@pytest.mark.parametrize(
    "name",
    [
        *("password", "DB_PASSWORD", "passwd", "user-pass", "api_key", "apiKey", "X-API-Key", "OPENAI_API_KEY"),
        *("Authorization", "accessToken", "token", "refresh_token", "client_secret", "secretKey", "privateKey"),
        *("AWS_SECRET_ACCESS_KEY", "Set-Cookie", "cookie", "credentials", "auth", "--token", "jwt", "AccountKey"),
    ],
)
def test_a_name_of_a_secret_is_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("max_tokens", "input_tokens", "total_token_count", "token_type", "first_token_latency", "eos_token"),
        *("primary_key", "public_key", "key", "keys", "author", "secretary", "session_id", "next_page_token"),
        *("password_policy", "tokenizer", "monkey", "auth_method", "", "x" * 1000),
    ],
)
def test_a_name_of_no_secret_is_let_be(name: str) -> None:
    assert not is_secret_name(name)


def test_what_stands_under_the_name_of_a_secret_goes_whatever_it_is() -> None:
    value: JSON = {
        "password": "x",
        "api_key": 12345,
        "credentials": {"user": "bob", "pin": "9"},
        "cookies": ["a=b"],
        "has_token": True,
        "secret": None,
        "token": "",
        "city": "Lisbon",
    }
    assert scrub(value) == {
        "password": REDACTED,
        "api_key": REDACTED,
        "credentials": REDACTED,
        "cookies": REDACTED,
        "has_token": True,
        "secret": None,
        "token": "",
        "city": "Lisbon",
    }


def test_a_secret_that_is_split_over_keys_goes() -> None:
    value: JSON = [
        {"name": "api_key", "value": "abc"},
        {"key": "city", "value": "Lisbon"},
        {"header": "Authorization", "content": "opaque"},
        [["Authorization", "opaque"], ["Accept", "text/html"]],
        ["curl", "--token", "abc", "--verbose", "yes"],
    ]
    assert scrub(value) == [
        {"name": "api_key", "value": REDACTED},
        {"key": "city", "value": "Lisbon"},
        {"header": "Authorization", "content": REDACTED},
        [["Authorization", REDACTED], ["Accept", "text/html"]],
        ["curl", "--token", REDACTED, "--verbose", "yes"],
    ]


def test_the_schema_of_an_argument_named_like_a_secret_stays() -> None:
    schema: JSON = {"properties": {"password": {"type": "string", "description": "of the user"}}}
    assert scrub(schema) is schema


def test_json_in_a_string_is_scrubbed_by_its_keys_and_left_as_it_is_written_otherwise() -> None:
    nested = json.dumps({"a": json.dumps({"passphrase": "correct horse"})})
    assert json.loads(json.loads(scrub_text_of(nested))["a"]) == {"passphrase": REDACTED}
    untouched = '{"a":   [1, 2]}'
    assert scrub(untouched) is untouched


def scrub_text_of(value: str) -> str:
    scrubbed = scrub(value)
    assert isinstance(scrubbed, str)
    return scrubbed


def test_a_secret_in_a_key_goes_and_a_card_number_that_is_a_number_too() -> None:
    assert scrub({TOKENS["github personal"]: 1, "paid with": 4111111111111111, "id": 4111111111111112}) == {
        REDACTED: 1,
        "paid with": REDACTED,
        "id": 4111111111111112,
    }


def test_what_is_taken_out_is_told() -> None:
    told: list[str] = []
    scrub({"password": ["a", {"b": 7}], "text": f"it is {TOKENS['npm']}"}, told.append)
    assert told == ["a", "7", TOKENS["npm"]]


def test_json_without_secrets_is_the_same_object() -> None:
    value: JSON = {"a": [1, "text", {"b": None, "c": [True, 1.5]}], "total_tokens": 12}
    assert scrub(value) is value


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text("abc xyz\n", max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz ", max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def _planted(draw: st.DrawFn) -> tuple[JSON, str]:
    """Some JSON with a secret planted somewhere in it, in some of the forms that secrets come in."""
    secret = draw(st.sampled_from(sorted(TOKENS.values())))
    before, after = draw(st.sampled_from([("", ""), ("see ", " there"), ("(", ")"), ("\n", "\n"), ("k: '", "'")]))
    planted: JSON = before + secret + after
    for _ in range(draw(st.integers(0, 4))):
        match draw(st.integers(0, 3)):
            case 0:
                planted = [draw(_PLAIN), planted, draw(_PLAIN)]
            case 1:
                planted = {"a": draw(_PLAIN), draw(st.sampled_from(["text", "result", "x y"])): planted}
            case 2:
                planted = json.dumps(planted)
            case _:
                planted = {"k": planted}
    return planted, secret


@given(_planted())
def test_a_secret_that_is_planted_anywhere_in_json_is_gone(planted: tuple[JSON, str]) -> None:
    value, secret = planted
    left = json.dumps(scrub(value), ensure_ascii=False)
    for form in {secret, json.dumps(secret)[1:-1]}:
        assert form not in left


@given(st.text(max_size=300))
def test_any_text_is_the_same_object_or_shows_what_it_lost(text: str) -> None:
    scrubbed = scrub_text(text)
    assert scrubbed is text or REDACTED in scrubbed


@pytest.mark.parametrize(
    "unit",
    [
        *("eyJ", "sk-", "sk_live_", "key", "pass", "password=", "password: ", "token ", "://", "://a:", "==", "4111-"),
        *("-----BEGIN PRIVATE KEY-----", "\\", "\\n", '"', "'password':'", '\\"', "xoxb-", "pypi-", "SG.", "Basic "),
        *("cookie: ", "a" * 999 + " ", "_", "-", "ghp_", "github_pat_", "AKIA", ":AA", "Q~", "sig="),
    ],
)
def test_a_hostile_text_is_scrubbed_in_linear_time(unit: str) -> None:
    """A quadratic pattern would take minutes."""
    text = unit * (400_000 // len(unit))
    assert len(scrub_text(text)) <= 2 * len(text)
