"""`otel-agentbus prices`, the command."""

from __future__ import annotations

import tomllib
from decimal import Context, FloatOperation, Inexact, Overflow, Rounded, localcontext
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from otel_agentbus.cli import app
from otel_agentbus.events import LlmResponse
from otel_agentbus.telemetry.pricing import PriceBook
from otel_agentbus.telemetry.pricing.catalog import Catalog
from otel_agentbus.telemetry.usage import usage_of

from .receivers import forget_environment


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["prices", *arguments], env={**environment, "COLUMNS": "120", "TERM": "dumb"})


def lines(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.output.splitlines() if line.strip()]


def test_a_price_is_explained_from_its_source_to_the_total() -> None:
    at = ("--at", "2026-11-16T12:00")
    counts = ("--input", "1000", "--output", "200", "--cache-read", "400", "--reasoning", "50")
    result = run("gpt-5-mini", "--provider", "openai", *counts, *at)
    assert result.exit_code == 0, result.output
    assert lines(result) == [
        f"Source genai-prices {version('genai-prices')}",
        "Provider openai",
        "Model gpt-5-mini",
        "Call of 2026-11-16 12:00 UTC",
        "Price since as long as the source knows",
        "Unit prices",
        "input tokens $0.25 per million",
        "cache read tokens $0.025 per million",
        "output tokens $2 per million",
        "web searches $10 per 1,000",
        "storage searches $2.5 per 1,000",
        "Arithmetic",
        "600 input tokens x 0.25 / 1,000,000 $0.00015",
        "400 cache read tokens x 0.025 / 1,000,000 $0.00001",
        "200 output tokens x 2 / 1,000,000 $0.0004",
        "total $0.00056",
    ]


def test_the_total_is_what_a_call_costs() -> None:
    book = PriceBook()
    book.load()
    event = LlmResponse(
        model_provider="google",
        model="gemini-2.5-pro",
        duration=0.0,
        success=True,
        input_tokens=250_000,
        output_tokens=10,
        cache_read_input_tokens=7,
    )
    usd = book.charge(event, usage_of(event)).usd
    counts = ("--input", "250000", "--output", "10", "--cache-read", "7")
    said = lines(run("gemini-2.5-pro", "--provider", "google", *counts))[-1]
    assert said.startswith("total $")
    assert float(said.removeprefix("total $")) == usd


def test_without_counts_the_unit_prices_are_told_with_their_thresholds() -> None:
    result = run("gemini-2.5-pro", "--provider", "gcp.vertex_ai")
    assert result.exit_code == 0
    assert "input tokens $1.25 per million, $2.5 if the input is over 200,000" in lines(result)
    assert "Arithmetic" not in result.output


@pytest.mark.parametrize(("tokens", "figure"), [("200000", "1.25"), ("200001", "2.5")])
def test_the_arithmetic_is_of_the_context_window(tokens: str, figure: str) -> None:
    found = lines(run("gemini-2.5-pro", "--provider", "google", "--input", tokens))
    assert f"{int(tokens):,} input tokens x {figure} / 1,000,000" in "\n".join(found)


def test_the_time_of_the_call_decides_and_is_shown() -> None:
    result = run("o3", "--provider", "openai", "--input", "1000000", "--at", "2025-06-09")
    assert {"Price until 2025-06-10 00:00 UTC", "total $10"} <= set(lines(result))
    result = run("o3", "--provider", "openai", "--input", "1000000", "--at", "2025-06-10T02:00+02:00")
    assert {"Call of 2025-06-10 00:00 UTC", "Price since 2025-06-10 00:00 UTC", "total $2"} <= set(lines(result))


def test_a_service_tier_has_its_own_prices() -> None:
    at = ("--at", "2026-11-16")
    result = run("gpt-5-mini", "--provider", "openai", "--input", "1000000", "--tier", "flex", *at)
    assert {"Price since 2026-10-12 00:00 UTC", "total $0.125"} <= set(lines(result))


def test_the_users_own_price_file_is_the_source(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[[price]]\nmodel = "llama*"\ninput = 0\noutput = 0.1\nfrom = 2026-01-01\n', encoding="utf-8")
    result = run("llama3", "--provider", "ollama", "--output", "1000000", AGENTBUS_PRICES=str(path))
    assert result.exit_code == 0, result.output
    found = lines(result)
    assert {"Provider any", "Model llama*", "Price since 2026-01-01 00:00 UTC", "total $0.1"} <= set(found)
    assert "".join(result.output.split()).find(f"{path},[[price]]1") > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("llama3", "--provider", "ollama"), "The price of 'llama3' is not known: the list has no provider 'ollama'."),
        (
            ("gpt-0", "--provider", "openai"),
            "The price of 'gpt-0' is not known: the list has no price for it at 'openai'.",
        ),
        (
            ("[bold]x", "--input", "1"),
            "The price of '[bold]x' is not known: its name does not say whose it is; say it with --provider.",
        ),
        (("gpt-0",), "The price of 'gpt-0' is not known: the list has no price for it."),
    ],
)
def test_an_unknown_price_ends_with_one_and_says_what_to_do(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert lines(result)[0] == said
    assert "AGENTBUS_PRICES" in result.output


@pytest.mark.parametrize("model", ["llama3", 'a "quoted" \\ model', "tab\tand\nline", "ünï🤖", "\u200b\u2028"])
def test_the_price_that_is_proposed_can_be_pasted_into_a_price_file(model: str, tmp_path: Path) -> None:
    result = run(model, "--provider", "ollama")
    proposed = result.output[result.output.index("[[price]]") :]
    assert tomllib.loads(proposed) == {"price": [{"provider": "ollama", "model": model, "input": 0.25, "output": 2.0}]}
    path = tmp_path / "prices.toml"
    path.write_text(proposed, encoding="utf-8")
    assert run(model, "--provider", "ollama", AGENTBUS_PRICES=str(path)).exit_code == 0


def test_counts_that_contradict_one_another_or_are_not_billed_are_told() -> None:
    result = run("whisper-1", "--provider", "openai", "--input", "5")
    assert (result.exit_code, lines(result)[-1]) == (
        1,
        "The cost is not known: a count is missing that this model is billed by.",
    )


def test_without_any_source_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ModuleNotFoundError("No module named 'genai_prices'", name="genai_prices")

    monkeypatch.setattr(Catalog, "load", absent)
    result = run("gpt-5-mini", "--provider", "openai")
    assert result.exit_code == 1
    assert 'pip install "otel-agentbus[prices]"' in result.output


@pytest.mark.parametrize(
    "arguments", [("m", "--at", "yesterday"), ("m", "--input", "-1"), ("m", "--output", "x"), ("m", "--nonsense"), ()]
)
def test_a_wrong_argument_ends_with_two(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("m", "--input", "2000000000"), "--input: 2,000,000,000 tokens are too many: no call has more than"),
        (("m", "--cache-read", "1000000001"), "--cache-read: 1,000,000,001 tokens are too many: no call has more than"),
        (("",), "MODEL: the name of a model is needed, such as gpt-5-mini"),
        (("  ", "--provider", "openai"), "MODEL: the name of a model is needed, such as gpt-5-mini"),
        (("m" * 257,), "MODEL: no model has a name of more than 256 characters"),
        (("m", "--at", "0001-01-01T00:00:00+23:00"), "is not within the years 1 to 9999 in UTC"),
        (("m", "--at", "9999-12-31T23:59-23:00"), "is not within the years 1 to 9999 in UTC"),
    ],
)
def test_a_wrong_argument_is_told_by_what_is_wrong(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("at", ["0001-01-01T00:00", "9999-12-31T23:59"])
def test_the_first_and_the_last_moment_are_moments(at: str) -> None:
    assert run("gpt-5-mini", "--provider", "openai", "--input", "1000000000", "--at", at).exit_code == 0


def test_the_arithmetic_is_not_rounded_by_what_the_application_makes_of_decimal_numbers(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nmodel = "m"\ninput = 12.3456\noutput = 0.000007\n', encoding="utf-8")
    with localcontext(Context(prec=3, Emax=3, Emin=-3, traps=[Inexact, Rounded, FloatOperation, Overflow])):
        result = run("m", "--input", "999999999", "--output", "7", AGENTBUS_PRICES=str(path))
    assert result.exit_code == 0, result.output
    assert lines(result)[-3:] == [
        "999,999,999 input tokens x 12.3456 / 1,000,000 $12345.5999876544",
        "7 output tokens x 0.000007 / 1,000,000 $0.000000000049",
        "total $12345.599987654449",
    ]


def test_a_wrong_price_file_ends_with_two_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nmodel = "m"\ninput = 1\n', encoding="utf-8")
    result = run("m", AGENTBUS_PRICES=str(path))
    assert result.exit_code == 2
    assert "[[price]]1:outputismissing" in "".join(result.output.split())
    assert run("m", AGENTBUS_PRICES=str(tmp_path / "none.toml")).exit_code == 2


def test_the_command_is_listed_and_has_help() -> None:
    assert "prices" in CliRunner().invoke(app, ["--help"]).output
    assert "--cache-read" in run("--help").output
