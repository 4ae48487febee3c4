"""What goes wrong in observing a framework is counted and logged now and then, and never reaches the program."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from otel_agentbus.adapters.losses import QUIET, Shielded, losses
from otel_agentbus.errors import BudgetExceeded

WHAT = "something of a framework could not be observed"


@pytest.fixture(autouse=True)
def _nothing_lost_before() -> Iterator[None]:
    losses.counts.clear()
    losses._logged.clear()
    yield
    losses.counts.clear()
    losses._logged.clear()


def test_a_failure_of_ours_is_counted_and_never_raised() -> None:
    for _ in range(3):
        with Shielded(WHAT):
            raise KeyError("ours")
    assert losses.counts == {WHAT: 3}


@pytest.mark.parametrize("error", [BudgetExceeded("b", {"agent": "a"}, "usd", 2.0, 1.0), KeyboardInterrupt()])
def test_a_budget_that_is_to_stop_the_agent_and_an_interrupt_pass_through_uncounted(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, Shielded(WHAT):
        raise error
    assert caught.value is error
    assert not losses.counts


def test_each_kind_of_loss_is_logged_with_its_traceback_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.WARNING, "otel_agentbus.adapters"):
        for now[0] in (0.0, QUIET / 2, QUIET, QUIET + 1):
            with Shielded(WHAT):
                raise KeyError("ours")
        losses.count("another")
    assert [record.getMessage() for record in caplog.records] == [
        f"{WHAT} (1 so far)",
        f"{WHAT} (3 so far)",
        "another (1 so far)",
    ]
    assert "KeyError: 'ours'" in caplog.text
