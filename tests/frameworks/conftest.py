"""What the tests of the frameworks' adapters share; each runs where its framework is (`make test-frameworks`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_agentbus import adapters, testing

from .shape import framework_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A framework's own warnings are its own affair."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def instrumented(request: pytest.FixtureRequest) -> Iterator[adapters.Instrumented]:
    """The framework that the test's file is named after, observed."""
    with adapters.instrument(framework_of(request.path)) as switched_on:
        yield switched_on


@pytest.fixture
def seen(instrumented: adapters.Instrumented) -> Iterator[testing.Captured]:
    """What that framework's programs emit in this test."""
    with testing.capture(capture_content="SPAN_ONLY") as captured:
        yield captured
