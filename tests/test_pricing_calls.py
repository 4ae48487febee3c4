"""Calls whose amounts are computed by hand: each amount is written as the arithmetic of the provider's unit prices.

The unit prices are those of genai-prices 0.2.3, the version of the lock; with another version of the list there is
nothing to compare. Amounts are exact: the float is the one nearest to the decimal number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from otel_agentbus import testing
from otel_agentbus.events import AgentEnd, AgentStart, CacheHit, LlmRequest, LlmResponse
from otel_agentbus.telemetry.ledger import Ledger
from otel_agentbus.telemetry.pricing import Charge, PriceBook
from otel_agentbus.telemetry.usage import usage_of

LIST = "0.2.3"
D = Decimal

pytestmark = pytest.mark.skipif(
    version("genai-prices") != LIST, reason=f"these amounts are of the prices in genai-prices {LIST}"
)

#: The user's own prices, of the rows whose status is "override".
PRICES = """
[[price]]                    # a contract, from the first of October on
provider = "openai"
model = "gpt-5-mini"
input = 0.20
output = 1.50
from = 2026-10-01
until = 2026-10-08

[[price]]                    # local models
provider = "ollama"
model = "llama*"
input = 0
output = 0

[[price]]                    # somebody's own server, with all parts
provider = "my-vllm"
model = "qwen3"
input = 0.10
output = 0.40
cache_read = 0.01
cache_write = 0.125
cache_write_1h = 0.20
reasoning = 0.30

[[price]]                    # a deployment of Azure's, whose name says nothing
provider = "azure_openai"
model = "our-deployment"
input = 1.10
output = 4.40
"""

M = 1_000_000
#: No price of the list changes at this time.
THEN = "2026-11-16T12:00"


@dataclass(frozen=True)
class Call:
    """What an event says of a call, and what is to come out."""

    name: str
    provider: str
    model: str
    usd: D | None
    status: str = "priced"
    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    usage: Mapping[str, Any] | None = None
    at: str = THEN
    duration: float = 0.0
    tier: str | None = None
    response_model: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def event(self) -> LlmResponse:
        ended = datetime.fromisoformat(self.at).replace(tzinfo=UTC)
        return LlmResponse(
            time_ns=int(ended.timestamp()) * 10**9,
            model_provider=self.provider,
            model=self.model,
            duration=self.duration,
            success=True,
            input_tokens=self.input,
            output_tokens=self.output,
            cache_read_input_tokens=self.cache_read,
            cache_write_input_tokens=self.cache_write,
            reasoning_output_tokens=self.reasoning,
            usage=None if self.usage is None else dict(self.usage),
            service_tier=self.tier,
            response_model=self.response_model,
            **self.others,
        )


# fmt: off
CALLS = [
    # -- plain ----------------------------------------------------------------------------------------------------
    Call("plain", "openai", "gpt-5-mini", (1_000 * D("0.25") + 200 * D(2)) / M, input=1_000, output=200),
    Call("one token", "openai", "gpt-5-mini", 1 * D("0.25") / M, input=1, output=0),
    Call("groq", "groq", "llama-3.3-70b-versatile", (900 * D("0.59") + 70 * D("0.79")) / M, input=900, output=70),
    Call("cohere", "cohere", "command-a", (120 * D("2.5") + 34 * D(10)) / M, input=120, output=34),
    Call("moonshot", "moonshot_ai", "kimi-k2", (2_000 * D("0.57") + 100 * D("2.3")) / M, input=2_000, output=100),
    Call("embedding", "openai", "text-embedding-3-small", 8_191 * D("0.02") / M, input=8_191),
    Call("a charge per call", "perplexity", "sonar-pro", (800 * D(3) + 150 * D(15)) / M + D(14) / 1_000, input=800,
         output=150),
    Call("the largest", "openai", "gpt-5-mini", (10**9 * D("0.25") + 10**9 * D(2)) / M, input=10**9, output=10**9),
    # -- parts of the input ---------------------------------------------------------------------------------------
    Call("cache read", "openai", "gpt-5-mini", (200 * D("0.25") + 800 * D("0.025") + 100 * D(2)) / M, input=1_000,
         cache_read=800, output=100),
    Call("all of it read", "anthropic", "claude-opus-4-5", (5_000 * D("0.5") + 10 * D(25)) / M, input=5_000,
         cache_read=5_000, output=10),
    Call("read and written", "anthropic", "claude-opus-4-5",
         (1_000 * D(5) + 3_000 * D("0.5") + 2_000 * D("6.25") + 400 * D(25)) / M, input=6_000, cache_read=3_000,
         cache_write=2_000, output=400),
    Call("written for an hour", "anthropic", "claude-haiku-4-5",
         (100 * D(1) + 300 * D("1.25") + 600 * D(2) + 50 * D(5)) / M, input=1_000, cache_write=900, output=50,
         usage={"cache_creation.ephemeral_5m_input_tokens": 300, "cache_creation.ephemeral_1h_input_tokens": 600}),
    Call("told without its cached part", "anthropic", "claude-opus-4-5",
         (5 * D(5) + 4_735 * D("6.25") + 20 * D(25)) / M, input=5, cache_write=4_735, output=20),
    Call("no price of its own for the cache", "cohere", "command-a", (1_000 * D("2.5") + 1 * D(10)) / M, input=1_000,
         cache_read=600, output=1),
    Call("audio", "openai", "gpt-audio", (100 * D("2.5") + 900 * D(32) + 50 * D(10) + 250 * D(64)) / M, input=1_000,
         output=300, usage={"input_audio_tokens": 900, "output_audio_tokens": 250}),
    Call("cached audio", "gcp.gemini", "gemini-2.5-flash",
         (300 * D("0.3") + 100 * D("0.03") + 450 * D(1) + 150 * D("0.1") + 20 * D("2.5")) / M, input=1_000,
         cache_read=250, output=20, usage={"audio.input_tokens": 600, "audio.cache_read.input_tokens": 150}),
    # -- parts of the output --------------------------------------------------------------------------------------
    Call("reasoning at the output's price", "openai", "gpt-5-mini", (50 * D("0.25") + 900 * D(2)) / M, input=50,
         output=900, reasoning=850),
    Call("reasoning at its own price", "perplexity", "sonar-deep-research", (40 * D(2) + 300 * D(8) + 700 * D(3)) / M,
         input=40, output=1_000, reasoning=700),
    Call("citations and searches", "perplexity", "sonar-deep-research",
         (40 * D(2) + 200 * D(8) + 700 * D(3) + 100 * D(2)) / M + 3 * D(5) / 1_000, input=40, output=1_000,
         reasoning=700, usage={"citation_tokens": 100, "num_search_queries": 3}),
    # -- what is not counted in tokens ----------------------------------------------------------------------------
    Call("web searches", "anthropic", "claude-opus-4-5", (300 * D(5) + 80 * D(25)) / M + 2 * D(10) / 1_000, input=300,
         output=80, usage={"server_tool_use": {"web_search_requests": 2}}),
    Call("seconds of audio", "openai", "whisper-1", 90 * D("0.36") / 3_600, usage={"seconds": 90}),
    Call("at least ten seconds", "groq", "whisper-large-v3", 10 * D("0.111") / 3_600, usage={"audio_seconds": 4}),
    Call("pages", "mistral", "mistral-ocr-2512", 7 * D(2) / 1_000, usage={"pages_processed": 7}),
    # -- context windows ------------------------------------------------------------------------------------------
    Call("at the threshold", "google", "gemini-2.5-pro", (200_000 * D("1.25") + 100 * D(10)) / M, input=200_000,
         output=100),
    Call("over the threshold", "google", "gemini-2.5-pro", (200_001 * D("2.5") + 100 * D(15)) / M, input=200_001,
         output=100),
    Call("over it by what is cached", "anthropic", "claude-sonnet-4-5",
         (1_000 * D(6) + 250_000 * D("0.6") + 10 * D("22.5")) / M, input=251_000, cache_read=250_000, output=10),
    Call("over it in reads that were told beside", "anthropic", "claude-sonnet-4-5",
         (1_000 * D(6) + 250_000 * D("0.6") + 10 * D("22.5")) / M,
         usage={"input_tokens": 1_000, "cache_read_input_tokens": 250_000, "output_tokens": 10}),
    Call("over it, and a search", "anthropic", "claude-sonnet-4-5",
         (200_001 * D(6) + 10 * D("22.5")) / M + 1 * D(10) / 1_000, input=200_001, output=10,
         usage={"web_searches": 1}),
    Call("at it, and a search", "anthropic", "claude-sonnet-4-5", (200_000 * D(3) + 10 * D(15)) / M + 1 * D(10) / 1_000,
         input=200_000, output=10, usage={"web_searches": 1}),
    # -- the time of the call -------------------------------------------------------------------------------------
    Call("before the price fell", "openai", "o3", (100 * D(10) + 10 * D(40)) / M, input=100, output=10,
         at="2025-06-09T23:59:59"),
    Call("after it fell", "openai", "o3", (100 * D(2) + 10 * D(8)) / M, input=100, output=10, at="2025-06-10"),
    Call("asked before, answered after", "openai", "o3", (100 * D(10) + 10 * D(40)) / M, input=100, output=10,
         at="2025-06-10T00:00:05", duration=6.0),
    Call("the second of three prices", "mistral_ai", "mistral-large-4", (100 * D("1.36") + 10 * D("4.18")) / M,
         input=100, output=10, at="2026-10-21"),
    Call("by night", "deepseek", "deepseek-chat", (100 * D("0.135") + 10 * D("0.55")) / M, input=100, output=10,
         at="2026-02-03T16:30"),
    Call("by day", "deepseek", "deepseek-chat", (100 * D("0.27") + 10 * D("1.1")) / M, input=100, output=10,
         at="2026-02-03T16:29:59"),
    # -- service tiers --------------------------------------------------------------------------------------------
    Call("batch", "anthropic", "claude-haiku-4-5", (100 * D("0.5") + 10 * D("2.5")) / M, input=100, output=10,
         tier="batch"),
    Call("batch, before it had a price", "anthropic", "claude-haiku-4-5", (100 * D(1) + 10 * D(5)) / M, input=100,
         output=10, tier="batch", at="2026-10-13"),
    Call("flex", "openai", "gpt-5-mini", (100 * D("0.125") + 40 * D("0.0125") + 10 * D(1)) / M, input=140,
         cache_read=40, output=10, tier="flex"),
    Call("priority", "openai", "gpt-5-mini", (100 * D("0.45") + 10 * D("3.6")) / M, input=100, output=10,
         tier="priority"),
    Call("priority has no threshold", "openai", "gpt-5.4", (300_000 * D(5) + 10 * D(30)) / M, input=300_000, output=10,
         tier="priority"),
    Call("fast", "anthropic", "claude-opus-4-8", (100 * D(10) + 10 * D(50)) / M, input=100, output=10, tier="fast"),
    Call("a tier that is the standard", "openai", "gpt-5-mini", (100 * D("0.25") + 10 * D(2)) / M, input=100, output=10,
         tier="default"),
    Call("a tier that nobody knows", "openai", "gpt-5-mini", (100 * D("0.25") + 10 * D(2)) / M, input=100, output=10,
         tier="turbo"),
    # -- providers and models under other names -------------------------------------------------------------------
    Call("Azure's own price", "azure.ai.openai", "o4-mini", (100 * D("1.1") + 10 * D("4.4")) / M, input=100, output=10),
    Call("Azure has no tiers of OpenAI's", "azure.ai.openai", "gpt-4o", (100 * D("2.5") + 10 * D(10)) / M, input=100,
         output=10, tier="priority"),
    Call("Bedrock", "aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
         (100 * D("3.3") + 10 * D("16.5")) / M, input=100, output=10),
    Call("Google's path of a model", "gcp.gemini", "models/gemini-2.5-flash", (100 * D("0.3") + 10 * D("2.5")) / M,
         input=100, output=10),
    Call("xAI", "x_ai", "grok-4", (100 * D(3) + 10 * D(15)) / M, input=100, output=10),
    Call("the model that answered", "openai", "gpt-5", (100 * D("0.25") + 10 * D(2)) / M, input=100, output=10,
         response_model="gpt-5-mini-2025-08-07"),
    Call("an answer from nobody the list knows", "openai", "gpt-5-mini", (100 * D("0.25") + 10 * D(2)) / M, input=100,
         output=10, response_model="gpt-5-mini-experimental"),
    Call("free", "openrouter", "deepseek/deepseek-r1:free", D(0), input=100, output=10),
    # -- raw counts -----------------------------------------------------------------------------------------------
    Call("Anthropic's", "anthropic", "claude-opus-4-5",
         (21 * D(5) + 188_086 * D("0.5") + 3_000 * D("6.25") + 1_456 * D(10) + 393 * D(25)) / M,
         usage={"input_tokens": 21, "cache_creation_input_tokens": 4_456, "cache_read_input_tokens": 188_086,
                "cache_creation": {"ephemeral_5m_input_tokens": 3_000, "ephemeral_1h_input_tokens": 1_456},
                "output_tokens": 393}),
    Call("OpenAI's", "openai", "gpt-5-mini", (100 * D("0.25") + 900 * D("0.025") + 300 * D(2)) / M,
         usage={"prompt_tokens": 1_000, "prompt_tokens_details": {"cached_tokens": 900},
                "completion_tokens": 300, "completion_tokens_details": {"reasoning_tokens": 200}}),
    Call("Bedrock's", "aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
         (10 * D("3.3") + 2_000 * D("0.33") + 500 * D("4.125") + 40 * D("16.5")) / M,
         usage={"inputTokens": 10, "cacheReadInputTokens": 2_000, "cacheWriteInputTokens": 500, "outputTokens": 40}),
    Call("Gemini's", "gcp.vertex_ai", "gemini-2.5-flash",
         (400 * D("0.3") + 600 * D("0.03") + (50 + 250) * D("2.5")) / M,
         usage={"promptTokenCount": 1_000, "cachedContentTokenCount": 600, "candidatesTokenCount": 50,
                "thoughtsTokenCount": 250}),
    # -- nothing used, nothing known ------------------------------------------------------------------------------
    Call("zero usage", "openai", "gpt-5-mini", D(0), input=0, output=0),
    Call("no usage", "openai", "gpt-5-mini", None, "no_usage"),
    Call("an unknown output", "openai", "gpt-5-mini", None, "no_usage", input=100),
    Call("tokens of what is billed by time", "openai", "whisper-1", None, "no_usage", input=100, output=0),
    Call("negative", "openai", "gpt-5-mini", None, "invalid_usage", input=-1, output=10),
    Call("absurd", "openai", "gpt-5-mini", None, "invalid_usage", input=10**9 + 1, output=10),
    Call("a bool", "openai", "gpt-5-mini", None, "invalid_usage", input=100, output=True),
    Call("raw and negative", "openai", "gpt-5-mini", None, "invalid_usage", usage={"prompt_tokens": -5}),
    Call("a part larger than its whole", "openai", "gpt-audio", None, "invalid_usage", input=100, output=10,
         usage={"input_audio_tokens": 101}),
    Call("an unknown model", "openai", "gpt-nonesuch", None, "unknown_model", input=100, output=10),
    Call("no price in the list", "openai", "moderation", None, "unknown_model", input=100, output=0),
    Call("an unknown provider", "ibm.watsonx.ai", "granite-3", None, "unknown_provider", input=100, output=10),
    Call("a provider that only sounds known", "my-openai", "gpt-5-mini", None, "unknown_provider", input=1, output=1),
    Call("a local model", "vllm", "gpt-5-mini", None, "unknown_provider", input=100, output=10),
    # -- the user's own prices ------------------------------------------------------------------------------------
    Call("a local model that costs nothing", "ollama", "llama3.2", D(0), "override", input=100, output=10),
    Call("another local model", "ollama", "mistral", None, "unknown_provider", input=100, output=10),
    Call("a contract", "openai", "gpt-5-mini", (100 * D("0.2") + 10 * D("1.5")) / M, "override", input=100, output=10,
         at="2026-10-01"),
    Call("before the contract", "openai", "gpt-5-mini", (100 * D("0.25") + 10 * D(2)) / M, input=100, output=10,
         at="2026-09-30T23:59:59"),
    Call("after it", "openai", "gpt-5-mini", (100 * D("0.25") + 10 * D(2)) / M, input=100, output=10, at="2026-10-08"),
    Call("a cached part costs as the input", "openai", "gpt-5-mini", (100 * D("0.2") + 10 * D("1.5")) / M, "override",
         input=100, cache_read=90, output=10, reasoning=9, at="2026-10-07"),
    Call("all parts of one's own server", "my-vllm", "qwen3",
         (100 * D("0.1") + 500 * D("0.01") + 70 * D("0.125") + 30 * D("0.2") + 20 * D("0.4") + 80 * D("0.3")) / M,
         "override", input=700, cache_read=500, cache_write=100, output=100, reasoning=80,
         usage={"ephemeral_1h_input_tokens": 30}),
    Call("a deployment by its own name", "azure.ai.openai", "our-deployment", (100 * D("1.1") + 10 * D("4.4")) / M,
         "override", input=100, output=10, response_model="gpt-4o-2024-11-20"),
]
# fmt: on


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    path: Path = tmp_path_factory.mktemp("prices") / "prices.toml"
    path.write_text(PRICES, encoding="utf-8")
    book = PriceBook(path)
    book.load()
    assert book.version == f"genai-prices {LIST}"
    return book


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_costs_exactly_what_is_computed_by_hand(call: Call, book: PriceBook) -> None:
    event = call.event()
    expected = Charge(None if call.usd is None else float(call.usd), call.status)
    cold = book.charge(event, usage_of(event))
    assert (cold, book.charge(event, usage_of(event))) == (expected, expected)


#: What the provider says wins over the list, and a cached answer costs nothing and saves what it would have cost.
SAID = [
    Call("reported", "openai", "gpt-5-mini", D("0.0123"), "reported", input=1_000, output=200,
         others={"cost_usd": 0.0123}),
    Call("reported by one whom no list knows", "my-vllm-2", "qwen9", D("0.5"), "reported", input=1,
         others={"cost_usd": 0.5}),
    Call("reported without usage", "openai", "gpt-5-mini", D("0.25"), "reported", others={"cost_usd": 0.25}),
    Call("reported as nothing", "openai", "gpt-5-mini", D(0), "reported", input=1_000, output=200,
         others={"cost_usd": 0.0}),
    Call("reported below nothing", "openai", "gpt-5-mini", None, "invalid_usage", input=1_000, output=200,
         others={"cost_usd": -0.01}),
    Call("reported beyond belief", "openai", "gpt-5-mini", None, "invalid_usage", input=1_000, output=200,
         others={"cost_usd": 1e12}),
]  # fmt: skip
CACHED = [
    (Call("cached, with what it used", "openai", "gpt-5-mini", D(0), "cached", input=1_000, output=200), 1_200,
     (1_000 * D("0.25") + 200 * D(2)) / M),
    (Call("cached, with what it saved", "openai", "gpt-5-mini", D(0), "cached"), 1_200, 1_200 * D("0.25") / M),
    (Call("cached, of a model without a price", "my-vllm-2", "qwen9", D(0), "cached", input=10, output=1), 11, D(0)),
    (Call("cached, and paid", "openai", "gpt-5-mini", D("0.0005"), "reported", input=1_000, output=200,
          others={"cost_usd": 0.0005}), 1_200, D(0)),
]  # fmt: skip


def seen_of(call: Call, book: PriceBook, hit: int | None = None) -> tuple[Any, ...]:
    """What the real bus makes of the call: cost and status on its span, what the run's span and the metrics say."""
    with testing.capture(validate_events=False) as seen:
        seen.bus.accounting.prices = book
        seen.bus.accounting.ledger = Ledger(book)
        run: dict[str, Any] = {"invocation_id": "r", "root_invocation_id": "r", "agent": "a"}
        response = call.event()
        response.call_id = "c"
        start_ns = (response.time_ns or 0) - int(call.duration * 1e9) - 1
        for event in (
            AgentStart(time_ns=start_ns, **run),
            LlmRequest(
                time_ns=start_ns, model_provider=call.provider, model=call.model, messages_count=1, call_id="c", **run
            ),
            *(
                []
                if hit is None
                else [CacheHit(cache_type="response", tokens_saved=hit, parent_call_id="llm:c", **run)]
            ),
            response,
            AgentEnd(time_ns=response.time_ns, **run),
        ):
            for name, value in run.items():
                setattr(event, name, value)
            seen.bus.emit(event)
        chat, whole = (
            next(dict(span.attributes or {}) for span in seen.spans if span.name.startswith(begin))
            for begin in ("chat", "invoke_agent")
        )
        spent, unpriced, saved = (
            sum(seen.metric(f"agentbus.cost.{name}").values()) for name in ("spent", "unpriced_calls", "saved")
        )
    return (
        (chat.get("agentbus.cost.usd"), chat["agentbus.cost.status"]),
        whole.get("agentbus.usage.cost_usd"),
        spent,
        unpriced,
        chat.get("agentbus.cost.saved_usd", 0.0),
        saved,
    )


def expected_of(call: Call, saved: float = 0.0) -> tuple[Any, ...]:
    usd = None if call.usd is None else float(call.usd)
    return (usd, call.status), usd, usd or 0.0, int(usd is None), saved, saved


@pytest.mark.parametrize("call", [*CALLS, *SAID], ids=lambda call: call.name)
def test_spans_and_metrics_say_of_it_what_was_computed(call: Call, book: PriceBook) -> None:
    assert seen_of(call, book) == expected_of(call)


@pytest.mark.parametrize(("call", "hit", "saved"), CACHED, ids=lambda value: getattr(value, "name", ""))
def test_a_cached_answer_costs_nothing_and_saves_its_price(call: Call, hit: int, saved: D, book: PriceBook) -> None:
    assert seen_of(call, book, hit) == expected_of(call, float(saved))


def test_the_table_is_as_broad_as_it_claims() -> None:
    known = {call.provider for call in CALLS if call.status == "priced"}
    assert len(CALLS) >= 40
    assert len({call.name for call in CALLS}) == len(CALLS)
    assert len(known) >= 6
