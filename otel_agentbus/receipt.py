"""The delivery receipt of a bus: what was emitted, what became of it, and what was lost where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budgets import Budgets
    from .router import Router
    from .telemetry.providers import Pipeline
    from .telemetry.pump import Pump


def receipt(
    source: str,
    emitted: int,
    invalid: int,
    fed: Mapping[str, int],
    pump: Pump,
    pipeline: Pipeline,
    router: Router,
    budgets: Budgets,
) -> dict[str, Any]:
    """What `Bus.health()` says; `fed` is what the span bridge says of itself, if there is one."""
    spans = Counter(fed)
    return {
        "source": source,
        "traces": pipeline.description.get("traces"),
        "metrics": pipeline.description.get("metrics"),
        "events": {
            "emitted": emitted,
            "queued": len(pump.ring) + spans["queued"],
            "dropped": {"queue_full": pump.dropped + spans["dropped"], "invalid": invalid},
            **{key: spans[key] for key in ("duplicate", "skipped", "unknown")},
        },
        "spans": {key: spans[key] for key in ("open", "interrupted", "failed", "ended", "exported", "lost", "waiting")},
        "handlers": {"failures": router.failures, "slow_emits": router.slow_emits},
        "budgets": {"used": budgets.used(), **budgets.health()},
        "endpoints": dict(pipeline.endpoints),
    }


def vital_numbers(now: Mapping[str, Any]) -> dict[str, Any]:
    """What of a receipt is a metric, under the names of the metrics."""
    return {
        "events": {key: now["events"][key] for key in ("emitted", "dropped", "duplicate", "skipped", "unknown")},
        "spans": {
            **{key: now["spans"][key] for key in ("open", "interrupted", "exported")},
            "dropped": now["spans"]["lost"],
        },
        "handler": {"failures": now["handlers"]["failures"]},
        "budget": {"used": now["budgets"]["used"]},
    }
