"""`otel-agentbus relay` as a process of its own: what it does to its process, and what the library leaves alone."""

from __future__ import annotations

import gc
import threading

from otel_agentbus.relay import relay
from otel_agentbus.settings import Settings

from .receivers import in_a_process_of_its_own


def test_the_command_has_the_garbage_collector_look_seldom_and_past_what_is_loaded() -> None:
    code = """
        import gc, json
        from typer.testing import CliRunner
        import otel_agentbus.relay as library
        from otel_agentbus.cli import app

        seen = []

        def work(*_, **__):
            seen.append((gc.get_threshold(), gc.get_freeze_count() > 10_000))
            return library.Relayed()

        library.relay = work
        result = CliRunner().invoke(app, ["relay", "--from", "redis://127.0.0.1:9/0"])
        print(json.dumps([result.exit_code, *seen]))
    """
    assert in_a_process_of_its_own(code) == [0, [[10_000, 20, 20], True]]


def test_the_library_leaves_the_garbage_collector_to_the_application() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    stop = threading.Event()
    stop.set()
    relay("redis://127.0.0.1:9/0", settings=Settings(traces_exporter="console"), stop=stop)
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
