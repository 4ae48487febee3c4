"""What holds after every test: nothing of it stays current for the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.context import Context, attach, get_current

from otel_agentbus import Invocation
from otel_agentbus.invocation import top


@pytest.fixture(autouse=True)
def _nothing_stays_current() -> Iterator[None]:
    attach(Context())
    yield
    left, span = top(), dict(get_current())
    Invocation.flush()
    attach(Context())
    assert left is None or not left.invocation.id, "a block is still current after the test"
    assert not span, "an OpenTelemetry context is still current after the test"
