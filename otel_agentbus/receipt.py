"""The delivery receipt of a bus: what was emitted, what became of it, and what was lost where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .telemetry.instruments import SPAN_LOSSES

if TYPE_CHECKING:
    from .budgets import Budgets
    from .router import Router
    from .telemetry.outlet import Outlet
    from .telemetry.pump import Pump

#: What the bridge says of the spans; `elsewhere` are others', which were read.
_MADE = ("begun", "open", "ended", "unsampled", "interrupted", "elsewhere", "failed")
#: What became of the spans, summed up over the exporters.
_FATES = ("exported", "rejected", "spooled", "kept", "dead_lettered", "waiting", "adopted")


def receipt(
    source: str,
    emitted: int,
    received: int,
    invalid: int,
    queued: int,
    fed: Mapping[str, int],
    pump: Pump,
    outlet: Outlet,
    router: Router,
    budgets: Budgets,
    journal: Mapping[str, Any],
    broker: Mapping[str, Any],
) -> dict[str, Any]:
    """What `Bus.health()` says; `fed` is what the span bridge says of itself, if there is one."""
    spans, pipeline, deliveries = Counter(fed), outlet.pipeline, outlet.accounts()
    events = {
        "emitted": emitted,
        "received": received,
        "queued": queued,
        "handed_over": pump.handed_over,
        "dropped": {"queue_full": pump.dropped, "invalid": invalid, "exit_timeout": pump.left},
        **{key: spans[key] for key in ("duplicate", "skipped", "unknown")},
    }
    return {
        "source": source,
        "traces": pipeline.description.get("traces"),
        "metrics": pipeline.description.get("metrics"),
        "events": events,
        "spans": {
            **{key: spans[key] for key in _MADE},
            **{fate: sum(delivery[fate] for delivery in deliveries) for fate in _FATES},
            "dropped": _dropped(deliveries),
        },
        "deliveries": deliveries,
        "journal": dict(journal),
        "broker": dict(broker),
        "handlers": {"failures": router.failures, "slow_emits": router.slow_emits},
        "budgets": {"used": budgets.used(), **budgets.health()},
        "endpoints": dict(pipeline.endpoints),
        "balance": {
            "events": 0 if pipeline.settings.sdk_disabled else emitted + received - _taken(pump, queued),
            "spans": spans["begun"] - spans["open"] - spans["ended"] - spans["unsampled"],
            "deliveries": sum(abs(delivery["balance"]) for delivery in deliveries),
            "broker": _unknown_of(broker),
        },
    }


def _taken(pump: Pump, queued: int) -> int:
    return pump.dropped + pump.left + queued + pump.handed_over


def _unknown_of(broker: Mapping[str, Any]) -> int:
    """How many of the events on their way to a broker are nowhere."""
    if not broker:
        return 0
    known = ("written", "waiting", "kept", "duplicates")
    fates: int = sum(broker[fate] for fate in known) + sum(broker["dropped"].values())
    return int(broker["given"] + broker["adopted"] - fates)


def _dropped(deliveries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    lost: Counter[str] = Counter()
    for delivery in deliveries:
        lost.update(delivery["dropped"])
    return dict(lost)


def vital_numbers(now: Mapping[str, Any]) -> dict[str, Any]:
    """What of a receipt is a metric, under the names of the metrics."""
    return {
        "events": {key: now["events"][key] for key in ("emitted", "dropped", "duplicate", "skipped", "unknown")},
        "spans": {
            **{key: now["spans"][key] for key in ("open", "interrupted", "exported")},
            "dropped": {**dict.fromkeys(SPAN_LOSSES, 0), **now["spans"]["dropped"]},  # a counter begins at 0
            "spooled": now["spans"]["kept"],
            "rejected": now["spans"]["rejected"] + now["spans"]["dead_lettered"],
        },
        "handler": {"failures": now["handlers"]["failures"]},
        "budget": {"used": now["budgets"]["used"]},
    }
