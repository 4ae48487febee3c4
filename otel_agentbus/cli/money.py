"""What `doctor` says of money: which prices are known here, which budgets hold, and which models had no price."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

if TYPE_CHECKING:
    from otel_agentbus.settings import Settings

#: The unpriced calls of the last week, by what is to be done about them. Counters of processes that are gone count too.
QUERY = (
    "sum by (gen_ai_provider_name, gen_ai_request_model, agentbus_reason) "
    "(max_over_time(agentbus_cost_unpriced_calls_total[7d])) > 0"
)
PATIENCE_S = 5.0

#: What helps, by the reason for which a call has no price.
REMEDIES = {
    "unknown_model": "give it a price in the file of AGENTBUS_PRICES, or update genai-prices",
    "unknown_provider": "give its models prices in the file of AGENTBUS_PRICES",
    "no_price_source": "install otel-agentbus[prices], or set AGENTBUS_PRICES",
    "no_usage": "its producer tells no token counts; of a stream, ask the provider to send usage at the end",
    "invalid_usage": "its counts or its reported cost cannot be true; correct the producer",
}


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Calls of one model that have no price, for one reason."""

    provider: str
    model: str
    reason: str
    calls: int

    @property
    def sentence(self) -> str:
        """What it is, and what helps."""
        model = f"{self.model or 'a model without a name'} of {self.provider or 'a provider without a name'}"
        remedy = REMEDIES.get(self.reason, "see docs/metrics.md")
        calls = "1 call" if self.calls == 1 else f"{self.calls:,} calls"
        return f"{calls} of {model} without a price ({self.reason}): {remedy}."


@dataclass(frozen=True, slots=True)
class Money:
    """What is known of prices and budgets."""

    #: The public list and its version; None where it is not installed.
    prices: str | None
    #: The user's own file of prices, and the names of the budgets.
    price_file: str | None
    budgets: tuple[str, ...]
    #: The models without a price, each once; None where nobody was asked.
    unpriced: tuple[Unpriced, ...] | None = None
    #: Why nobody could be asked.
    trouble: str | None = None


def money(settings: Settings, prometheus: str | None = None) -> Money:
    """Read the files as `connect()` would (a wrong one raises `ConfigurationError`), and ask Prometheus if named."""
    from otel_agentbus.budgets import load_budgets
    from otel_agentbus.telemetry.pricing import PriceBook

    book = PriceBook(settings.prices)
    book.load()
    budgets = () if settings.budgets is None else load_budgets(settings.budgets)
    told = Money(book.version, settings.prices, tuple(budget.name for budget in budgets))
    if prometheus is None:
        return told
    try:
        return Money(told.prices, told.price_file, told.budgets, tuple(unpriced(prometheus)))
    except (OSError, URLError, ValueError, KeyError, TypeError) as error:
        trouble = f"{prometheus} was asked for the unpriced calls and gave none: {error}"
        return Money(told.prices, told.price_file, told.budgets, trouble=trouble)


def unpriced(prometheus: str) -> list[Unpriced]:
    """The models without a price of which this Prometheus knows, most calls first."""
    if not prometheus.startswith(("http://", "https://")):
        raise ValueError("the URL must begin with http:// or https://")
    url = f"{prometheus.rstrip('/')}/api/v1/query?{urlencode({'query': QUERY})}"
    with urlopen(url, timeout=PATIENCE_S) as answer:
        found: Any = json.load(answer)
    return sorted(
        (_unpriced(series["metric"], series["value"]) for series in found["data"]["result"]),
        key=lambda told: (-told.calls, told.provider, told.model, told.reason),
    )


def _unpriced(labels: dict[str, str], value: tuple[float, str]) -> Unpriced:
    return Unpriced(
        labels.get("gen_ai_provider_name", ""),
        labels.get("gen_ai_request_model", ""),
        labels.get("agentbus_reason", ""),
        round(float(value[1])),
    )
