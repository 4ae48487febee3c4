"""What the adapters' tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from otel_agentbus import testing


@pytest.fixture
def seen() -> Iterator[testing.Captured]:
    """What is emitted in this test."""
    with testing.capture(capture_content="SPAN_ONLY") as captured:
        yield captured
