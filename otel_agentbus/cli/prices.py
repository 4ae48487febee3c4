"""`otel-agentbus prices`: what a call of a model costs, from which source and since when, with the arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from otel_agentbus.telemetry.pricing import Explanation, Stepped, UnitPrice

_MILLION = 10**6
_COUNTS = ("--input", "--output", "--cache-read", "--cache-write", "--reasoning")
_WHY = {
    "unknown_provider": "The price of {model} is not known: the list has no provider {provider}.",
    "no_provider": "The price of {model} is not known: its name does not say whose it is; say it with --provider.",
    "unknown_model": "The price of {model} is not known: the list has no price for it at {provider}.",
    "no_model": "The price of {model} is not known: the list has no price for it.",
    "no_price_source": "The price of {model} is not known: there is no list of prices and no price file.",
    "no_usage": "The cost is not known: a count is missing that this model is billed by.",
    "invalid_usage": "The cost is not known: these counts contradict one another.",
}
#: The same where no provider is named.
_UNNAMED = {"unknown_provider": "no_provider", "unknown_model": "no_model"}


def prices(
    model: Annotated[str, typer.Argument(help="The model, as events name it: gpt-5-mini, claude-sonnet-4-5.")],
    provider: Annotated[
        str | None, typer.Option(help="The provider, under any of its names; else the model's name has to say it.")
    ] = None,
    tokens_in: Annotated[int | None, typer.Option("--input", min=0, help="Input tokens, cached ones included.")] = None,
    tokens_out: Annotated[
        int | None, typer.Option("--output", min=0, help="Output tokens, reasoning included.")
    ] = None,
    cache_read: Annotated[int | None, typer.Option(min=0, help="Input tokens read from the provider's cache.")] = None,
    cache_write: Annotated[int | None, typer.Option(min=0, help="Input tokens written to it.")] = None,
    reasoning: Annotated[int | None, typer.Option(min=0, help="Output tokens of reasoning.")] = None,
    tier: Annotated[str | None, typer.Option(help="The service tier: batch, flex, priority, fast.")] = None,
    at: Annotated[str | None, typer.Option(help="When the call began: 2026-10-14, or 2026-10-14T16:30 (UTC).")] = None,
) -> None:
    """Explain what a call of a model costs: where the price is from, since when it holds, what each count adds. Tokens
    that are not given count as none. Exit code 0: known; 1: not known.
    """
    from rich.console import Console

    from otel_agentbus.telemetry.pricing import PriceBook

    moment = _moment(at)
    _check_model(model)
    counts = (tokens_in, tokens_out, cache_read, cache_write, reasoning)
    _check_counts(dict(zip(_COUNTS, counts, strict=True)))
    try:
        book = PriceBook(Settings().prices)
    except ConfigurationError as error:
        Console(stderr=True, highlight=False).print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    book.load()
    given = any(count is not None for count in counts)
    found = book.explain(
        model,
        provider,
        input=(tokens_in or 0) if given else None,
        output=(tokens_out or 0) if given else None,
        cache_read=cache_read,
        cache_write=cache_write,
        reasoning=reasoning,
        at=moment,
        tier=tier,
    )
    console = Console(highlight=False, soft_wrap=True)
    if found.prices or found.source:
        _show(found, console, moment)
    if found.status not in ("priced", "override"):
        _show_why(found, console, model, provider, book.version)
        raise typer.Exit(1)


def _moment(said: str | None) -> datetime:
    if said is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(said)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except ValueError:
        wrong = "is no date; write 2026-10-14 or 2026-10-14T16:30"
    except OverflowError:
        wrong = "is not within the years 1 to 9999 in UTC"
    raise typer.BadParameter(f"{said!r} {wrong}", param_hint="--at")


def _check_model(model: str | None) -> None:
    from otel_agentbus.telemetry.pricing.ids import LONGEST

    if model is None or not model.strip():  # typer's lowest version gives None for what is missing
        raise typer.BadParameter("the name of a model is needed, such as gpt-5-mini", param_hint="MODEL")
    if len(model) > LONGEST:
        raise typer.BadParameter(f"no model has a name of more than {LONGEST} characters", param_hint="MODEL")


def _check_counts(given: dict[str, int | None]) -> None:
    from otel_agentbus.telemetry.usage import MAX_TOKENS

    for option, count in given.items():
        if count is not None and count > MAX_TOKENS:
            raise typer.BadParameter(
                f"{count:,} tokens are too many: no call has more than {MAX_TOKENS:,}", param_hint=option
            )


def _show(found: Explanation, console: Console, at: datetime) -> None:
    from rich.text import Text

    facts = _columns()
    facts.add_row("Source", Text(str(found.source)))
    facts.add_row("Provider", Text(str(found.provider)))
    facts.add_row("Model", Text(str(found.model)))
    facts.add_row("Call of", _date(at))
    facts.add_row("Price since", "as long as the source knows" if found.since is None else _date(found.since))
    if found.until is not None:
        facts.add_row("Price until", _date(found.until))
    console.print(facts)
    if found.prices:
        console.print("\nUnit prices", style="bold")
        units = _columns()
        for price in found.prices:
            units.add_row(_unit(price.unit), _price(price))
        console.print(units)
    if found.exact is not None:
        console.print("\nArithmetic", style="bold")
        console.print(_arithmetic(found))


def _arithmetic(found: Explanation) -> Table:
    from otel_agentbus.telemetry.pricing import plain

    table = _columns("right", "left", "right", "left", "right")
    for term in found.terms:
        figure = f"x {plain(term.price)}"
        table.add_row(f"{term.quantity:,}", _unit(term.key), figure, f"/ {term.per:,}", _usd(term.usd))
    table.add_row("", "", "", "total", _usd(found.exact or Decimal(0)), style="bold")
    return table


def _show_why(found: Explanation, console: Console, model: str, provider: str | None, version: str | None) -> None:
    reason = found.status if provider else _UNNAMED.get(found.status, found.status)
    why = _WHY[reason].format(model=repr(model), provider=repr(provider))
    console.print(why, style="red", markup=False)
    if found.status in ("no_usage", "invalid_usage"):
        return
    if version is None:
        console.print('Install the list with: pip install "otel-agentbus[prices]"', markup=False)
    console.print(
        "Say the price yourself, in a file that AGENTBUS_PRICES names (USD per million tokens):", markup=False
    )
    lines = ["[[price]]", *([f"provider = {_quoted(provider)}"] if provider else []), f"model = {_quoted(model)}"]
    console.print("\n".join(["", *lines, "input = 0.25", "output = 2.00"]), markup=False)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if mark.isprintable() else f"\\U{ord(mark):08x}" for mark in escaped) + '"'


def _price(price: UnitPrice) -> str:
    per = "million" if price.per == _MILLION else f"{price.per:,}"
    figure = price.price
    if isinstance(figure, Decimal):
        return f"{_usd(figure)} per {per}"
    return f"{_usd(figure.base)} per {per}{_steps(figure)}"


def _steps(figure: Stepped) -> str:
    return "".join(f", {_usd(price)} if the input is over {start:,}" for start, price in figure.steps)


def _unit(key: str) -> str:
    return key.replace("_", " ")


def _usd(amount: Decimal | Fraction) -> str:
    from otel_agentbus.telemetry.pricing import plain

    return f"${plain(amount)}"


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _columns(*justify: str) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    for side in justify:
        table.add_column(justify="right" if side == "right" else "left", no_wrap=True)
    return table
