"""The price book: whose prices, which model, which time, what is kept, and what never happens to a call."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot

from otel_agentbus.events import LlmRequest, LlmResponse
from otel_agentbus.telemetry import names
from otel_agentbus.telemetry.pricing import Charge, PriceBook, book, ids
from otel_agentbus.telemetry.pricing.catalog import Catalog
from otel_agentbus.telemetry.pricing.counts import UNIT_OF
from otel_agentbus.telemetry.usage import Usage, usage_of
from otel_agentbus.testing import wait_until

from .receivers import in_a_process_of_its_own

USED = Usage(1_000, 100, None, None, None)
NOON = int(datetime(2026, 11, 16, 12, tzinfo=UTC).timestamp()) * 10**9
HOUR = 3_600 * 10**9


@pytest.fixture(scope="module")
def prices() -> PriceBook:
    found = PriceBook()
    found.load()
    return found


def response(provider: Any, model: Any, **fields: Any) -> LlmResponse:
    given = {"duration": 0.0, "success": True, "time_ns": NOON, **fields}
    return LlmResponse(model_provider=provider, model=model, **given)


# -- providers --------------------------------------------------------------------------------------------------------
#: OpenTelemetry's ids, a model that each has, and the provider of the list whose price it is.
OTEL = {
    "openai": ("gpt-5-mini", "openai"),
    "anthropic": ("claude-opus-4-5", "anthropic"),
    "cohere": ("command-a", "cohere"),
    "deepseek": ("deepseek-chat", "deepseek"),
    "groq": ("llama-3.3-70b-versatile", "groq"),
    "mistral_ai": ("mistral-large-4", "mistral"),
    "moonshot_ai": ("kimi-k2", "moonshotai"),
    "perplexity": ("sonar-pro", "perplexity"),
    "x_ai": ("grok-4", "x-ai"),
    "aws.bedrock": ("amazon.nova-pro-v1:0", "aws"),
    "azure.ai.inference": ("phi-4", "azure"),
    "azure.ai.openai": ("gpt-4o", "azure"),
    "gcp.gemini": ("gemini-2.5-flash", "google"),
    "gcp.gen_ai": ("gemini-2.5-flash", "google"),
    "gcp.vertex_ai": ("claude-sonnet-4-5@20250929", "google"),
}
NOT_LISTED = {"ibm.watsonx.ai": "ibm/granite-4-h-small"}


def test_every_provider_of_the_conventions_is_accounted_for() -> None:
    assert set(OTEL) | set(NOT_LISTED) == names.PROVIDERS


@pytest.mark.parametrize("provider", sorted(OTEL))
def test_a_provider_of_the_conventions_has_its_own_prices(provider: str, prices: PriceBook) -> None:
    model, listed = OTEL[provider]
    assert prices.explain(model, provider).provider == listed
    assert prices.charge(response(provider, model), USED).status == "priced"


@pytest.mark.parametrize("provider", sorted(NOT_LISTED))
def test_a_provider_that_the_list_lacks_is_unknown(provider: str, prices: PriceBook) -> None:
    assert prices.charge(response(provider, NOT_LISTED[provider]), USED) == Charge(None, "unknown_provider")


@pytest.mark.parametrize("alias", sorted(names.PROVIDER_ALIASES))
def test_an_alias_has_the_prices_of_its_provider(alias: str, prices: PriceBook) -> None:
    provider = names.PROVIDER_ALIASES[alias]
    model = (OTEL.get(provider) or (NOT_LISTED.get(provider, ""), ""))[0]
    charges = {prices.charge(response(name, model), USED) for name in (alias, alias.upper(), f" {alias} ", provider)}
    assert len(charges) == 1
    assert charges.pop().status == ("priced" if provider in OTEL else "unknown_provider")


def test_every_provider_of_the_list_is_found_by_its_own_id(prices: PriceBook) -> None:
    for provider in get_snapshot().providers:
        charge = prices.charge(response(provider.id, "no-such-model"), USED)
        assert (provider.id, charge.status) == (provider.id, "unknown_model")


@pytest.mark.parametrize("spelling", sorted(ids.SPELLINGS))
def test_a_spelling_of_a_framework_leads_to_a_provider_of_the_list(spelling: str, prices: PriceBook) -> None:
    for said in (spelling, spelling.replace("-", "_"), spelling.replace("-", " ").title()):
        assert prices.charge(response(said, "no-such-model"), USED) == Charge(None, "unknown_model")


@pytest.mark.parametrize("provider", ["my-openai", "openai.proxy", "not-anthropic", "vertex-clone", "ollama", "?"])
def test_a_provider_is_not_guessed_from_part_of_its_name_nor_from_the_model(provider: str, prices: PriceBook) -> None:
    for model in ("gpt-5-mini", "claude-opus-4-5", "gemini-2.5-flash"):
        assert prices.charge(response(provider, model), USED) == Charge(None, "unknown_provider")


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("gpt-5-mini", "openai"),
        ("claude-opus-4-5", "anthropic"),
        ("azure/gpt-4o", "azure"),
        ("bedrock/us.amazon.nova-pro-v1:0", "aws"),
        ("openrouter/openai/gpt-4o", "openrouter"),
    ],
)
@pytest.mark.parametrize("provider", ["", None])
def test_without_a_provider_the_models_name_says_it(
    provider: str | None, model: str, listed: str, prices: PriceBook
) -> None:
    assert prices.charge(response(provider, model), USED).status == "priced"
    assert prices.explain(model).provider == listed


@pytest.mark.parametrize("model", ["ollama/claude-opus-4-5", "llama3", "/", "nobody/gpt-5-mini", "my/gemini-2.5-flash"])
def test_without_a_provider_most_names_say_nothing(model: str, prices: PriceBook) -> None:
    assert prices.charge(response("", model), USED) == Charge(None, "unknown_provider")


def test_without_a_name_there_is_no_model(prices: PriceBook) -> None:
    for model in ("", None, "  "):
        assert prices.charge(response("openai", model), USED) == Charge(None, "unknown_model")


def test_litellm_is_the_provider_that_its_models_begin_with(prices: PriceBook) -> None:
    assert prices.explain("azure/gpt-4o", "litellm").provider == "azure"
    assert prices.charge(response("litellm", "gpt-4o"), USED).status == "unknown_provider"


# -- models -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("provider", "model", "listed"),
    [
        ("openai", "openai/gpt-5-mini", "gpt-5-mini"),
        ("openai", "GPT-5-mini", "gpt-5-mini"),
        ("groq", "openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        ("gcp.gemini", "models/gemini-2.5-flash", "gemini-2.5-flash"),
        (
            *("gcp.vertex_ai", "projects/p/locations/l/publishers/google/models/gemini-2.5-flash"),
            "gemini-2.5-flash",
        ),
        (
            *("aws.bedrock", "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0"),
            "amazon.nova-pro-v1:0",
        ),
    ],
)
def test_a_model_is_found_under_the_names_that_apis_use(
    provider: str, model: str, listed: str, prices: PriceBook
) -> None:
    assert prices.explain(model, provider).model == listed


def test_the_model_that_answered_decides_and_else_the_one_that_was_asked(prices: PriceBook) -> None:
    asked = prices.charge(response("openai", "gpt-5"), USED)
    answered = prices.charge(response("openai", "gpt-5", response_model="gpt-5-mini"), USED)
    fallback = prices.charge(response("openai", "gpt-5", response_model="gpt-5-x"), USED)
    assert answered == prices.charge(response("openai", "gpt-5-mini"), USED) != asked
    assert fallback == asked


# -- time -------------------------------------------------------------------------------------------------------------
def test_a_replay_of_old_calls_has_the_old_prices_in_any_order(prices: PriceBook) -> None:
    def on(day: int) -> float | None:
        at = int(datetime(2026, 10, day, tzinfo=UTC).timestamp()) * 10**9
        return prices.charge(response("mistral", "mistral-large-4", time_ns=at), USED).usd

    usd = [
        (1_000 * 0.68 + 100 * 2.09) / 1e6,
        (1_000 * 1.36 + 100 * 4.18) / 1e6,
        (1_000 * 0.7 + 100 * 2.1) / 1e6,
    ]
    for days in ([19, 20, 29], [29, 20, 19], [20, 29, 19]):
        found = {day: on(day) for day in days}
        assert [found[19], found[20], found[29]] == pytest.approx(usd, rel=1e-12)


def test_a_price_of_the_time_of_day_changes_twice_on_each_of_many_days(prices: PriceBook) -> None:
    cheap, dear = (1_000 * 0.135 + 100 * 0.55) / 1e6, (1_000 * 0.27 + 100 * 1.1) / 1e6
    found = [
        prices.charge(response("deepseek", "deepseek-chat", time_ns=NOON + days * 24 * HOUR + shift * HOUR), USED).usd
        for days in range(30)
        for shift in (0, 5)
    ]
    assert found == pytest.approx([dear, cheap] * 30, rel=1e-12)


@pytest.mark.parametrize("time_ns", [None, "noon", -1, 10**30, -(10**30), True, 2**62, 253_402_300_800 * 10**9])
@pytest.mark.parametrize("model", ["deepseek-chat", "deepseek-v4-flash"])
def test_an_impossible_time_still_has_a_price(time_ns: object, model: str, prices: PriceBook) -> None:
    assert prices.charge(response("deepseek", model, time_ns=time_ns), USED).status == "priced"


@pytest.mark.parametrize("duration", [float("inf"), float("nan"), -5.0, 1e300, "long", None])
def test_an_impossible_duration_does_not_move_the_call(duration: object, prices: PriceBook) -> None:
    plain = prices.charge(response("deepseek", "deepseek-chat"), USED)
    assert prices.charge(response("deepseek", "deepseek-chat", duration=duration), USED) == plain


# -- bounds -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "x" * 10_000),
        ("x" * 10_000, "gpt-5-mini"),
        ("openai", "\ud800"),
        ("openai", 7),
        (["openai"], "gpt-5-mini"),
        ("openai", {}),
        (None, None),
        ("openai", "gpt-5-mini\x00"),
    ],
)
def test_hostile_names_have_no_price_and_do_no_harm(provider: object, model: object, prices: PriceBook) -> None:
    for _ in range(2):
        assert prices.charge(response(provider, model), USED).usd is None


def test_an_event_that_raises_has_no_price(prices: PriceBook) -> None:
    class Hostile(str):
        __slots__ = ()

        def __hash__(self) -> int:
            raise RuntimeError

    event = response(Hostile("openai"), "gpt-5-mini")
    assert prices.charge(event, USED) == Charge(None, "unknown_model")
    assert prices.is_warm(event) is False
    prices.warm(event)


def test_a_flood_of_names_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "ROOM", 50)
    prices = PriceBook()
    prices.load()
    known = response("openai", "gpt-5-mini")
    price = prices.charge(known, USED)
    before = len(get_snapshot()._lookup_cache), len(get_snapshot()._provider_misses)
    flood = [response("openai", f"model-{number}") for number in range(200)]
    for event in flood:
        assert prices.charge(event, USED) == Charge(None, "unknown_model")
    assert sum(map(prices.is_warm, flood)) == 50
    assert prices.is_warm(flood[-1])
    assert prices.is_warm(known)  # what has a price is not pushed out by what has none
    assert prices.charge(known, USED) == price
    assert (len(get_snapshot()._lookup_cache), len(get_snapshot()._provider_misses)) == before
    versions = [response("anthropic", f"claude-opus-4-5-{number}") for number in range(200)]
    assert {prices.charge(event, USED).status for event in versions} == {"priced"}
    assert sum(map(prices.is_warm, versions)) == 50


def test_a_name_that_is_too_long_is_not_kept(prices: PriceBook) -> None:
    event = response("openai", "x" * 300)
    prices.charge(event, USED)
    assert not prices.is_warm(event)


# -- warm and cold ----------------------------------------------------------------------------------------------------
def test_an_answer_is_warm_after_its_first_lookup_known_or_not() -> None:
    prices = PriceBook()
    prices.load()
    for event in (response("openai", "gpt-5-mini"), response("openai", "nope"), response("nobody", "gpt-5-mini")):
        assert not prices.is_warm(event)
        prices.charge(event, USED)
        assert prices.is_warm(event)


def test_a_request_warms_its_answer() -> None:
    prices = PriceBook()
    prices.load()
    tier: dict[str, Any] = {"service_tier": "flex"}
    prices.warm(LlmRequest(model_provider="openai", model="gpt-5-mini", messages_count=1, parameters=tier))
    assert prices.is_warm(response("openai", "gpt-5-mini", service_tier="flex"))
    assert not prices.is_warm(response("openai", "gpt-5-mini"))
    prices.warm(response("openai", "gpt-5-mini"))
    assert prices.is_warm(response("openai", "gpt-5-mini"))


@pytest.mark.parametrize("parameters", [None, {}, {"service_tier": []}, [1]])
def test_warming_takes_any_request(parameters: Any, prices: PriceBook) -> None:
    prices.warm(LlmRequest(model_provider="openai", model="gpt-5-mini", messages_count=1, parameters=parameters))


# -- further counts ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "usage",
    [
        {"nonsense": -1},
        {"nonsense": "x"},
        {"audio_tokens_maybe": True},
        {"text.input_tokens": 10},
        {1: 2},
        {"": None},
        [1],
        "x",
        5,
    ],
)
def test_further_counts_that_no_price_is_for_change_nothing(usage: Any, prices: PriceBook) -> None:
    plain = prices.charge(response("openai", "gpt-5-mini"), USED)
    assert prices.charge(response("openai", "gpt-5-mini", usage=usage), USED) == plain


@pytest.mark.parametrize("count", [-1, True, 10**12, "3", 1.5, float("nan")])
def test_a_priced_count_that_cannot_be_one_is_invalid(count: object, prices: PriceBook) -> None:
    event = response("openai", "gpt-5-mini", usage={"web_searches": count})
    assert prices.charge(event, USED) == Charge(None, "invalid_usage")


def test_a_count_that_is_told_in_two_spellings_is_counted_once(prices: PriceBook) -> None:
    once = response("openai", "gpt-5-mini", usage={"web_searches": 2})
    twice = response("openai", "gpt-5-mini", usage={"web_searches": 2, "server_tool_use": {"web_search_requests": 3}})
    assert prices.charge(twice, USED) == prices.charge(once, USED)


@pytest.mark.parametrize("spelling", sorted(key for key, unit in UNIT_OF.items() if unit == "cache_write_1h_tokens"))
def test_a_write_for_an_hour_is_priced_as_one_even_if_nothing_else_is_said_of_it(
    spelling: str, prices: PriceBook
) -> None:
    event = response("anthropic", "claude-haiku-4-5", input_tokens=1_000, output_tokens=0, usage={spelling: 600})
    assert prices.charge(event, usage_of(event)) == Charge((400 * 1 + 600 * 2) / 1e6, "priced")


def test_seconds_may_be_a_fraction(prices: PriceBook) -> None:
    event = response("openai", "whisper-1", usage={"seconds": 12.5})
    assert prices.charge(event, usage_of(event)) == Charge(12.5 * 0.36 / 3_600, "priced")


def test_an_overlap_that_is_not_told_is_invalid(prices: PriceBook) -> None:
    """Some of the cached tokens may be audio, whose price differs."""
    cached = Usage(1_000, 10, 400, None, None)
    untold = response("google", "gemini-2.5-flash", usage={"input_audio_tokens": 500})
    told = response("google", "gemini-2.5-flash", usage={"input_audio_tokens": 500, "cache_audio_read_tokens": 0})
    assert prices.charge(untold, cached) == Charge(None, "invalid_usage")
    assert prices.charge(told, cached).status == "priced"


def test_parts_that_exceed_their_whole_are_invalid(prices: PriceBook) -> None:
    for usage in (Usage(10, 5, 8, 3, None), Usage(10, 5, None, None, 6)):
        assert prices.charge(response("openai", "gpt-5-mini"), usage) == Charge(None, "invalid_usage")


# -- loading ----------------------------------------------------------------------------------------------------------
def test_nothing_is_loaded_until_it_is_asked_for_and_nothing_is_remembered_from_before() -> None:
    prices, event = PriceBook(), response("openai", "gpt-5-mini")
    assert (prices.ready, prices.version) == (False, None)
    assert prices.charge(event, USED) == Charge(None, "no_price_source")
    assert not prices.is_warm(event)
    prices.load()
    assert prices.charge(event, USED).status == "priced"


def test_a_book_without_the_list_is_ready_and_says_that_there_is_no_source() -> None:
    prices = PriceBook(catalog=False)
    prices.load()
    prices.load_in_background()
    prices.after_fork()
    assert (prices.ready, prices.wait(0), prices.version) == (True, True, None)
    assert prices.charge(response("openai", "gpt-5-mini"), USED) == Charge(None, "no_price_source")
    assert prices.charge(response("openai", "gpt-5-mini"), Usage(None, None, None, None, None)).status == "no_usage"
    assert prices.charge(response("openai", "gpt-5-mini"), USED._replace(invalid=1)).status == "invalid_usage"


def test_the_list_loads_in_the_background() -> None:
    prices = PriceBook()
    prices.load_in_background()
    prices.load_in_background()
    assert prices.wait(30)
    assert prices.ready
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "otel-agentbus-prices"])


def test_many_threads_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Catalog] = []
    load = Catalog.load

    def counted() -> Catalog:
        loads.append(load())
        return loads[-1]

    monkeypatch.setattr(Catalog, "load", counted)
    prices = PriceBook()
    threads = [threading.Thread(target=prices.load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(loads), prices.ready) == (1, True)


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "genai_prices"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "genai_prices", None)


@pytest.mark.usefixtures("not_installed")
def test_without_the_extra_there_is_no_price_source_and_nobody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prices = PriceBook()
        prices.load()
    assert (prices.ready, prices.version, caplog.messages) == (True, None, [])
    for _ in range(2):
        assert prices.charge(response("openai", "gpt-5-mini"), USED) == Charge(None, "no_price_source")


def test_a_list_that_cannot_be_read_is_told_once_and_counts_as_absent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("no such file")

    monkeypatch.setattr(Catalog, "load", broken)
    prices = PriceBook()
    prices.load()
    prices.load()
    assert (prices.ready, len(caplog.records)) == (True, 1)
    assert prices.charge(response("openai", "gpt-5-mini"), USED) == Charge(None, "no_price_source")


def test_threads_agree_on_every_price(prices: PriceBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "ROOM", 20)
    shared = PriceBook()
    shared.load()
    events = [response("openai", model) for model in ("gpt-5-mini", "gpt-5", "nope", "gpt-4o")]
    events += [response("deepseek", "deepseek-chat", time_ns=NOON + hour * HOUR) for hour in range(24)]
    events += [response("anthropic", f"claude-opus-4-5-{number}") for number in range(30)]
    expected = [prices.charge(event, USED) for event in events]
    seen: list[list[Charge]] = []

    def work() -> None:
        seen.extend([shared.charge(event, USED) for event in events] for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 120


FORKED = """
import json, os, sys, threading, time
from otel_agentbus.events import LlmResponse
from otel_agentbus.telemetry.pricing import PriceBook
from otel_agentbus.telemetry.usage import usage_of
book = PriceBook()
{meanwhile}
reader, writer = os.pipe()
child = os.fork()
if not child:
    book.after_fork()
    book.load_in_background()
    ready = book.wait(20)
    event = LlmResponse(
        model_provider="openai", model="gpt-5-mini", duration=0.0, success=True, input_tokens=4, output_tokens=0
    )
    os.write(writer, json.dumps([ready, *book.charge(event, usage_of(event))]).encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reader, 1000).decode())
"""


@pytest.mark.parametrize(
    "meanwhile",
    [
        "pass",
        "book.load()",
        "book.load_in_background()",
        "book.load_in_background(); time.sleep(0.05)",
        "threading.Thread(target=book.load).start(); time.sleep(0.05)",
    ],
)
def test_the_child_of_a_fork_has_prices_whenever_it_forks(meanwhile: str) -> None:
    assert in_a_process_of_its_own(FORKED.format(meanwhile=meanwhile)) == [True, 1e-06, "priced"]


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
def test_a_program_that_ends_while_the_list_is_loading_ends_well(delay: float) -> None:
    code = f"""
import time
from otel_agentbus.telemetry.pricing import PriceBook
book = PriceBook()
book.load_in_background()
time.sleep({delay})
print("true")
"""
    assert in_a_process_of_its_own(code) is True


def test_the_end_of_a_program_waits_for_the_loading_that_is_under_way() -> None:
    """Its daemon thread, unwound by force in the list's Rust extension, would abort the process ("not rethrown")."""
    code = """
import atexit, json, time
atexit.register(lambda: print(json.dumps(loading.done)))  # registered first: it runs last
from otel_agentbus.telemetry.pricing.loading import Loading
loading = Loading(lambda: time.sleep(0.3))
loading.in_background()
"""
    assert in_a_process_of_its_own(code) is True


def test_making_a_book_imports_no_list(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nmodel = "m"\ninput = 1\noutput = 1\n', encoding="utf-8")
    code = f"""
import json, sys
from otel_agentbus.events import LlmResponse
from otel_agentbus.telemetry.pricing import PriceBook
from otel_agentbus.telemetry.usage import usage_of
book = PriceBook({str(path)!r})
event = LlmResponse(model_provider="p", model="m", duration=0.0, success=True, input_tokens=1, output_tokens=1)
print(json.dumps([book.charge(event, usage_of(event)).status, "genai_prices" in sys.modules]))
"""
    assert in_a_process_of_its_own(code) == ["override", False]
