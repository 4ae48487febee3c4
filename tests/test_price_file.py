"""The user's own price file: what it says, which of its prices holds, and what is said of a mistake."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Context, FloatOperation, Inexact, Overflow, Rounded, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import LlmResponse
from otel_agentbus.telemetry.pricing import Charge, PriceBook
from otel_agentbus.telemetry.usage import Usage, usage_of

USED = Usage(1_000_000, 100_000, None, None, None)


def book_of(tmp_path: Path, text: str, *, catalog: bool = False) -> PriceBook:
    path = tmp_path / "prices.toml"
    path.write_text(text, encoding="utf-8")
    book = PriceBook(path, catalog=catalog)
    book.load()
    return book


def price(**said: object) -> str:
    lines = {"model": '"m"', "input": 1, "output": 10, **said}
    return "[[price]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


def charged(book: PriceBook, provider: str = "p", model: str = "m", usage: Usage = USED, **fields: Any) -> Charge:
    given: dict[str, Any] = {"duration": 0.0, "success": True, "time_ns": ns("2026-06-01"), **fields}
    return book.charge(LlmResponse(model_provider=provider, model=model, **given), usage)


def ns(moment: str) -> int:
    return int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()) * 10**9


def test_the_first_price_that_fits_wins(tmp_path: Path) -> None:
    book = book_of(tmp_path, price(model='"llama-3*"', input=2) + price(model='"llama*"', input=3) + price(model='"*"'))
    assert charged(book, model="llama-3.2") == Charge(3.0, "override")
    assert charged(book, model="llama-2") == Charge(4.0, "override")
    assert charged(book, model="anything") == Charge(2.0, "override")


def test_a_price_may_be_for_one_provider_under_any_of_its_names(tmp_path: Path) -> None:
    book = book_of(tmp_path, price(provider='"azure_openai"'))
    assert {charged(book, provider=name).status for name in ("azure.ai.openai", "AZURE", "az.ai.openai")} == {
        "override"
    }
    assert charged(book, provider="openai") == Charge(None, "unknown_model")


@pytest.mark.parametrize(
    ("pattern", "model", "fits"),
    [
        ("gpt-5-mini", "GPT-5-Mini", True),
        ("gpt-5-mini", "gpt-5-mini-2025", False),
        ("*/llama[23]", "org/llama2", True),
        ("*/llama[23]", "org/llama4", False),
        ("a?c", "abc", True),
        ("a.c", "abc", False),
    ],
)
def test_a_model_is_exact_or_a_glob_and_case_does_not_matter(
    pattern: str, model: str, fits: bool, tmp_path: Path
) -> None:
    assert (charged(book_of(tmp_path, price(model=f'"{pattern}"')), model=model).status == "override") is fits


def test_the_model_that_was_asked_and_the_one_that_answered_are_both_tried(tmp_path: Path) -> None:
    book = book_of(tmp_path, price(model='"asked"', input=2) + price(model='"answered"', input=3))
    assert charged(book, model="asked", response_model="answered").usd == 3.0
    assert charged(book, model="x", response_model="answered").usd == 4.0


def test_what_is_not_said_costs_as_what_contains_it(tmp_path: Path) -> None:
    parts = Usage(1_000_000, 100_000, 500_000, 200_000, 50_000)
    assert charged(book_of(tmp_path, price()), usage=parts) == Charge(2.0, "override")
    said = price(cache_read="0.1", cache_write="1.25", reasoning=20)
    assert charged(book_of(tmp_path, said), usage=parts) == Charge(0.3 + 0.05 + 0.25 + 0.5 + 1.0, "override")


def test_a_write_for_an_hour_may_have_its_own_price(tmp_path: Path) -> None:
    parts, hourly = Usage(1_000_000, 0, None, 500_000, None), {"cache_write_1h_tokens": 400_000}
    assert charged(book_of(tmp_path, price(cache_write=2)), usage=parts).usd == 1.5
    book = book_of(tmp_path, price(cache_write=2, cache_write_1h=4))
    event = LlmResponse(model_provider="p", model="m", duration=0.0, success=True, usage=hourly)
    assert book.charge(event, parts) == Charge(0.5 + 0.2 + 1.6, "override")


def test_a_price_may_be_for_one_service_tier(tmp_path: Path) -> None:
    book = book_of(tmp_path, price(tier='"batch"', input="0.5") + price())
    assert (charged(book, service_tier="Batch").usd, charged(book).usd) == (1.5, 2.0)


@pytest.mark.parametrize(
    ("moment", "usd"),
    [
        ("2025-12-31T23:59:59", 4.0),
        ("2026-01-01", 2.0),
        ("2026-06-30T23:59:59", 2.0),
        ("2026-07-01", 3.0),
        ("2027-01-01", 4.0),
    ],
)
def test_a_price_holds_from_its_first_day_until_before_its_last(moment: str, usd: float, tmp_path: Path) -> None:
    first = price(**{"from": "2026-01-01", "until": "2026-07-01"})
    second = price(**{"from": "2026-07-01T00:00:00Z", "until": "2027-01-01T02:00:00+02:00"}, input=2)
    book = book_of(tmp_path, first + second + price(input=3))
    for at in (moment, "2026-01-02", "2026-08-01", "2028-01-01", moment):
        charge = charged(book, time_ns=ns(at))
    assert charge == Charge(usd, "override")


def test_where_no_price_of_the_file_holds_the_list_is_asked(tmp_path: Path) -> None:
    text = price(model='"gpt-5-mini"', **{"from": "2026-01-01"})
    book = book_of(tmp_path, text, catalog=True)
    before, after = (charged(book, "openai", "gpt-5-mini", time_ns=ns(at)) for at in ("2025-12-31", "2026-01-01"))
    assert (before, after) == (Charge(0.25 + 0.2, "priced"), Charge(2.0, "override"))
    assert charged(book, "openai", "gpt-5-mini", time_ns=ns("2025-12-31")) == before


def test_a_model_that_is_said_to_cost_nothing_costs_nothing(tmp_path: Path) -> None:
    book = book_of(tmp_path, price(provider='"ollama"', model='"*"', input=0, output=0))
    assert charged(book, "ollama", "llama3") == Charge(0.0, "override")
    assert charged(book, "ollama", "llama3", Usage(5, None, None, None, None)) == Charge(0.0, "override")
    assert charged(book, "ollama", "llama3", Usage(None, None, None, None, None)) == Charge(None, "no_usage")


def test_prices_are_decimal_numbers(tmp_path: Path) -> None:
    """0.1 + 0.2 is 0.3 here."""
    book = book_of(tmp_path, price(input="0.1", output="0.2"))
    assert charged(book, usage=Usage(1_000_000, 1_000_000, None, None, None)).usd == 0.3


def test_an_empty_file_is_a_source_without_prices(tmp_path: Path) -> None:
    assert charged(book_of(tmp_path, "# nothing yet\n")) == Charge(None, "unknown_model")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[price]]\nmodel = ", "is not TOML: "),
        ("\x00", "is not TOML: "),
        ("[price]\nmodel = 'm'\n", "has 'price': write nothing but [[price]] tables"),
        ("prices = 1\n", "has 'prices': write nothing but [[price]] tables"),
        ("price = [1]\n", "[[price]] 1: write it as a table: [[price]]"),
        (price(input=None), "[[price]] 1: input is missing; write 0 if it costs nothing"),
        (price(output=None), "[[price]] 1: output is missing; write 0 if it costs nothing"),
        (price(model=None), "[[price]] 1: model is missing"),
        (price() + price(model='""'), "[[price]] 2: model is '': it must be a text of 1 to 256 characters"),
        (price(input='"0.25"'), "[[price]] 1: input is '0.25': it must be a number of USD per million tokens, such as"),
        (price(input="true"), "[[price]] 1: input is True: it must be a number"),
        (price(input=-1), "[[price]] 1: input is -1: it must be a price from 0 to"),
        (price(input="nan"), "[[price]] 1: input is NaN: it must be a price from 0 to"),
        (price(input="inf"), "[[price]] 1: input is Infinity: it must be a price from 0 to"),
        (price(input=1_000_001), "[[price]] 1: input is 1000001: it must be a price from 0 to"),
        (price(input="1e-19"), "[[price]] 1: input is 1E-19: it must be a price of at most 18 decimal places"),
        (price(input="1e-999999"), "it must be a price of at most 18 decimal places"),
        (price(input="1e999999"), "it must be a price from 0 to"),
        (price(input="1e99999999999999999999"), "is not TOML: "),
        (price(input="9" * 5_000), "is not TOML: "),
        ("x = " + "[" * 100_000, "is not TOML: "),
        (price(inptu=1), "[[price]] 1: there is no key 'inptu'; the keys are model, provider, tier, input, output,"),
        (price(**{"from": '"2026-01-01"'}), "[[price]] 1: from is '2026-01-01': it must be a date without quotes"),
        (price(since="2026-01-01"), "[[price]] 1: there is no key 'since'; the keys are"),
        (
            price(**{"from": "2026-02-01", "until": "2026-02-01"}),
            "[[price]] 1: until is 2026-02-01 00:00:00+00:00: it must be later than from",
        ),
    ],
)
def test_a_mistake_is_told_at_once_in_one_sentence_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        book_of(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"The price file {tmp_path / 'prices.toml'}")
    assert said in message
    assert "\n" not in message


def test_every_mistake_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        book_of(tmp_path, price(input=-1, output=-2) + price() + price(model=None))
    assert [line.partition(": ")[0].rpartition(", ")[2] for line in str(caught.value).splitlines()] == [
        "[[price]] 1",
        "[[price]] 1",
        "[[price]] 3",
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(alphabet=st.characters(codec="utf-8"))
    | st.lists(
        st.tuples(
            st.sampled_from(["model", "provider", "input", "output", "reasoning", "tier", "from", "until", "other"]),
            st.sampled_from(
                ['"m"', '"*["', '""', "0", "0.25", "-1", "inf", "true", "[]", "{}", "2026-01-01", "12:00:00"]
            ),
        ),
        unique_by=lambda pair: pair[0],
    ).map(lambda pairs: "[[price]]\n" + "\n".join(f"{key} = {value}" for key, value in pairs))
)
def test_any_file_is_prices_or_a_sentence(tmp_path: Path, text: str) -> None:
    try:
        book = book_of(tmp_path, text)
    except ConfigurationError as error:
        assert str(error).startswith("The price file ")  # noqa: PT017 - either is right
    else:
        assert charged(book).status in ("override", "unknown_model")


def test_a_file_that_is_not_there_or_cannot_be_decoded_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"The price file .*none.toml cannot be read: No such file"):
        PriceBook(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'[[price]]\nmodel = "\xff"\n')
    with pytest.raises(ConfigurationError, match=r"The price file .*latin.toml is not TOML"):
        PriceBook(tmp_path / "latin.toml")


@pytest.mark.parametrize("traps", [[], [Inexact, Rounded, FloatOperation, Overflow]])
def test_what_the_application_makes_of_decimal_numbers_does_not_change_a_price(
    tmp_path: Path, traps: list[Any]
) -> None:
    with localcontext(Context(prec=3, Emax=3, Emin=-3, traps=traps)):
        book = book_of(tmp_path, price(input="12.3456", output="0.000012345"), catalog=True)
        assert charged(book, usage=Usage(10**6, 0, None, None, None)) == Charge(12.3456, "override")
        found = book.explain("m", "p", input=999_999_999, output=7)
    assert str(found.exact) == "12345.599987654486415"
    assert found.usd == 12345.599987654486415


@pytest.mark.parametrize("figure", ["0." + "9" * 70, "1e-70", "0." + "1" * 19])
def test_a_price_of_too_many_places_is_refused_and_not_rounded(figure: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="it must be a price of at most 18 decimal places"):
        book_of(tmp_path, price(input=figure))


def test_zeros_at_the_end_are_no_places(tmp_path: Path) -> None:
    book = book_of(tmp_path, price(input="0.25" + "0" * 70))
    assert charged(book, usage=Usage(10**6, 0, None, None, None)) == Charge(0.25, "override")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:00-23:00"])
@pytest.mark.parametrize("key", ["from", "until"])
def test_a_moment_beyond_all_years_is_told_in_a_sentence(key: str, moment: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        book_of(tmp_path, price(**{key: moment}))
    assert str(caught.value) == (
        f"The price file {tmp_path / 'prices.toml'}, [[price]] 1: {key} is {moment.replace('T', ' ')}: "
        "it must be within the years 1 to 9999 in UTC"
    )


@pytest.mark.parametrize(
    ("raw", "usd"),
    [
        (
            {
                "input_tokens": 1_000_000,
                "output_tokens": 0,
                "input_token_details": {
                    "cache_read": 500_000,
                    "cache_creation": 0,
                    "ephemeral_5m_input_tokens": 300_000,
                    "ephemeral_1h_input_tokens": 100_000,
                },
            },
            0.1 * 1 + 0.5 * 0.1 + 0.3 * 1.25 + 0.1 * 2,
        ),
        (
            {
                "input_tokens": 1_000_000,
                "output_tokens": 0,
                "cache_read_tokens": 500_000,
                "cache_write_tokens": 400_000,
                "cache_write_1h_tokens": 100_000,
            },
            0.1 * 1 + 0.5 * 0.1 + 0.3 * 1.25 + 0.1 * 2,
        ),
        (
            {"input_tokens": 1_000_000, "output_tokens": 0, "input_token_details": {"cache_read": 900_000}},
            0.1 * 1 + 0.9 * 0.1,
        ),
    ],
)
def test_the_caches_discount_is_given_in_the_spellings_of_frameworks(
    raw: dict[str, Any], usd: float, tmp_path: Path
) -> None:
    book = book_of(tmp_path, price(cache_read=0.1, cache_write=1.25, cache_write_1h=2))
    event = LlmResponse(model_provider="p", model="m", duration=0.0, success=True, usage=raw)
    charge = book.charge(event, usage_of(event))
    assert charge.status == "override"
    assert charge.usd == pytest.approx(usd, rel=1e-12)
