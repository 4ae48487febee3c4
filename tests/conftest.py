"""What holds after every test: nothing of it stays current for the next one."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
from opentelemetry.context import Context, attach, get_current

from otel_agentbus import Invocation
from otel_agentbus.invocation import top

# Machines are shared: an example that takes long is no failure. In CI the examples are the same each time.
hypothesis.settings.register_profile("shared", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("shared")


_state, _tests = tempfile.mkdtemp(prefix="agentbus-tests-"), itertools.count()
atexit.register(shutil.rmtree, _state, ignore_errors=True)


@pytest.fixture(autouse=True)
def _spools_of_its_own() -> None:
    """Spans that a test's endpoint did not take must not be sent to the next one's, which may have its port."""
    os.environ["XDG_STATE_HOME"] = os.path.join(_state, str(next(_tests)))


@pytest.fixture(autouse=True)
def _nothing_stays_current() -> Iterator[None]:
    attach(Context())
    yield
    left, span = top(), dict(get_current())
    Invocation.flush()
    attach(Context())
    assert left is None or not left.invocation.id, "a block is still current after the test"
    assert not span, "an OpenTelemetry context is still current after the test"
