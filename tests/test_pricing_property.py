"""Our table against the list's own arithmetic: any model, time, tier and usage gives the same amount."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from operator import add
from typing import Any

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider, TieredPrices
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from otel_agentbus.events import LlmResponse
from otel_agentbus.telemetry.pricing import Charge, PriceBook
from otel_agentbus.telemetry.usage import Usage

BOOK = PriceBook()
BOOK.load()
LIST = get_snapshot().providers
MODELS = [(provider, model) for provider in LIST for model in provider.models]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400 * 10**6

#: How a service tier is said, and the list's conditions for it.
TIERS: dict[str | None, dict[str, str]] = {
    None: {},
    "default": {},
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},
    "no such tier": {},
}


def prices_of(model: ModelInfo) -> list[ModelPrice]:
    own = [model.prices] if isinstance(model.prices, ModelPrice) else [price.prices for price in model.prices]
    return own + [variant.prices for variant in model.price_variants or ()]


def thresholds(model: ModelInfo) -> list[int]:
    figures = [figure for price in prices_of(model) for figure in price.__dict__.values()]
    return sorted({tier.start for figure in figures if isinstance(figure, TieredPrices) for tier in figure.tiers})


def constraints(model: ModelInfo) -> list[Any]:
    conditional: list[Any] = [] if isinstance(model.prices, ModelPrice) else list(model.prices)
    variants: list[PriceVariant] = model.price_variants or []
    return [price.constraint for price in (*conditional, *variants) if price.constraint is not None]


def turning_points(model: ModelInfo) -> list[datetime]:
    """The times at which one of the model's prices begins or ends."""
    found: list[datetime] = []
    for constraint in constraints(model):
        start: date | None = getattr(constraint, "start_date", None)
        if start is not None:
            found.append(datetime(start.year, start.month, start.day, tzinfo=UTC))
        else:
            day = date(2026, 9, 15)
            found += [datetime.combine(day, constraint.start_time), datetime.combine(day, constraint.end_time)]
    return found


EVENTFUL = [pair for pair in MODELS if constraints(pair[1]) or thresholds(pair[1])]


@st.composite
def moments(draw: st.DrawFn, model: ModelInfo) -> datetime:
    points = turning_points(model)
    anywhere = st.integers(20_000 * DAY, 21_000 * DAY).map(lambda at: EPOCH + timedelta(microseconds=at))
    near = st.sampled_from([-1_000_000, -1, 0, 1, 1_000_000]).map(lambda at: timedelta(microseconds=at))
    if not points:
        return draw(anywhere)
    return draw(anywhere | st.builds(add, st.sampled_from(points), near))


@st.composite
def inputs(draw: st.DrawFn, model: ModelInfo) -> int:
    near = [start + offset for start in thresholds(model) for offset in (-1, 0, 1)]
    anything = st.integers(0, 3_000_000)
    return draw(anything | st.sampled_from(near) if near else anything)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Provider, ModelInfo, datetime, str | None, dict[str, int]]:
    provider, model = draw(st.sampled_from(EVENTFUL) | st.sampled_from(MODELS))
    total_in, total_out = draw(inputs(model)), draw(st.integers(0, 200_000))
    read = draw(st.just(0) | st.integers(0, total_in))
    written = draw(st.just(0) | st.integers(0, total_in - read))
    counts = {
        "input_tokens": total_in,
        "output_tokens": total_out,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "output_reasoning_tokens": draw(st.just(0) | st.integers(0, total_out)),
    }
    if draw(st.booleans()):
        audio = draw(st.integers(0, total_in))
        cached_audio = draw(st.integers(0, min(audio, read)))
        others = {
            "cache_write_1h_tokens": draw(st.integers(0, written)),
            "input_audio_tokens": audio,
            "cache_audio_read_tokens": cached_audio,
            "output_audio_tokens": draw(st.integers(0, total_out)),
            "input_image_tokens": draw(st.integers(0, total_in)),
            "cache_image_read_tokens": draw(st.just(0) | st.integers(0, read - cached_audio)),
            "web_searches": draw(st.integers(0, 50)),
            "audio_seconds": (seconds := draw(st.integers(0, 7_200))),
            "input_audio_seconds": seconds,
            "input_document_pages": draw(st.integers(0, 100)),
            "output_citation_tokens": draw(st.integers(0, total_out)),
        }
        counts |= {key: others[key] for key in draw(st.sets(st.sampled_from(sorted(others))))}
    tier = draw(st.sampled_from(list(TIERS)))
    return provider, model, draw(moments(model)), tier, counts


def event_of(provider: str, model: str, at: datetime, tier: str | None, counts: dict[str, int]) -> LlmResponse:
    plain = {"input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "output_reasoning_tokens"}
    return LlmResponse(
        model_provider=provider,
        model=model,
        duration=0.0,
        success=True,
        time_ns=(at - EPOCH) // timedelta(microseconds=1) * 1000,
        usage={key: value for key, value in counts.items() if key not in plain} or None,
        service_tier=tier,
    )


@settings(max_examples=800, deadline=None)
@given(calls())
def test_an_amount_is_that_of_the_list_itself(
    call: tuple[Provider, ModelInfo, datetime, str | None, dict[str, int]],
) -> None:
    provider, model, at, tier, counts = call
    found = provider.find_model(model.id, all_providers=LIST)
    assume(found is not None)  # a model whose own id its rules do not match cannot be asked for
    assert found is not None
    event = event_of(provider.id, model.id, at, tier, counts)
    usage = Usage(
        counts["input_tokens"],
        counts["output_tokens"],
        counts["cache_read_tokens"],
        counts["cache_write_tokens"],
        counts["output_reasoning_tokens"],
    )
    ours = BOOK.charge(event, usage)
    assert BOOK.charge(event, usage) == ours  # the second time, from the table
    try:
        theirs = genai_prices.calc_price(
            genai_prices.Usage(**counts),
            model.id,
            provider_id=provider.id,
            genai_request_timestamp=at,
            price_context=TIERS[tier] or None,
        )
    except ValueError:
        assert ours.status in ("invalid_usage", "unknown_model")
        return
    if ours.status == "unknown_model":  # the list knows the model, and says nothing of its price
        assert str(theirs.model_price) == ""
    elif ours.status == "no_usage":  # billed by something else than what was counted
        assert theirs.total_price == 0
    elif ours.status == "invalid_usage":
        pytest.fail(f"the list prices it: {theirs}")
    else:
        assert ours.status == "priced"
        assert ours.usd is not None
        assert math.isclose(ours.usd, theirs.total_price, rel_tol=1e-12, abs_tol=0)


@pytest.mark.parametrize("hour", [12, 23])
@pytest.mark.parametrize("tier", [None, "batch"])
def test_every_model_of_the_list_has_the_lists_own_price(hour: int, tier: str | None) -> None:
    """By day and by night, with plain counts; what the list cannot find or has no price for is not known."""
    at = datetime(2026, 11, 16, hour, tzinfo=UTC)
    counted = genai_prices.Usage(input_tokens=1_000, output_tokens=200, cache_read_tokens=300, cache_write_tokens=50)
    usage = Usage(1_000, 200, 300, 50, None)
    ours = {
        (provider.id, model.id): BOOK.charge(event_of(provider.id, model.id, at, tier, {}), usage)
        for provider, model in MODELS
    }
    theirs = {}
    for provider, model in MODELS:
        found = provider.find_model(model.id, all_providers=LIST)
        expected = Charge(None, "unknown_model")
        if found is not None:
            price = found.calc_price(counted, provider, genai_request_timestamp=at, price_context=TIERS[tier] or None)
            if str(price.model_price) or found.id.endswith(":free"):
                by_token = "tok" in str(price.model_price).lower() or not str(price.model_price)
                expected = Charge(float(price.total_price), "priced") if by_token else Charge(None, "no_usage")
        theirs[provider.id, model.id] = expected
    assert ours == theirs
