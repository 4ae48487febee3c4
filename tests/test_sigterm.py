"""SIGTERM: nobody of ours handles it unasked; where asked, what was emitted is out before the process ends by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

from .receivers import HttpReceiver, Reply
from .test_exit import ROOT, names_at

PROGRAM = """
import os, signal, sys
import otel_agentbus as agentbus
SETUP
agentbus.connect()
with agentbus.agent("a") as run, run.llm("m") as call:
    call.record(input_tokens=3)
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""


def ended(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_where_it_is_asked_for_everything_is_delivered_and_the_process_ends_by_the_signal() -> None:
    with HttpReceiver() as receiver:
        done = ended(
            PROGRAM.replace("SETUP", ""),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            AGENTBUS_FLUSH_ON_SIGTERM="1",
        )
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "ready\n", "")
        assert sorted(names_at(receiver)) == ["chat m", "invoke_agent a"]


def test_an_endpoint_that_hangs_does_not_keep_the_process_from_ending_by_the_signal() -> None:
    with HttpReceiver({"/v1/traces": Reply(hang=True), "/v1/metrics": Reply(hang=True)}) as receiver:
        done = ended(
            PROGRAM.replace("SETUP", ""),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            AGENTBUS_FLUSH_ON_SIGTERM="1",
            AGENTBUS_EXIT_TIMEOUT="0.5",
        )
        assert done.returncode == -signal.SIGTERM


def test_without_being_asked_nothing_handles_the_signal() -> None:
    done = ended(PROGRAM.replace("SETUP", "") + "\n", OTEL_TRACES_EXPORTER="console")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "ready\n")


def test_a_handler_of_the_application_stays_what_it_is() -> None:
    setup = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    done = ended(PROGRAM.replace("SETUP", setup), AGENTBUS_FLUSH_ON_SIGTERM="1")
    assert (done.returncode, done.stdout, done.stderr) == (7, "ready\n", "")


def test_the_signal_is_given_back_when_the_bus_is_closed() -> None:
    code = """
    import signal
    import otel_agentbus as agentbus
    with agentbus.connect():
        print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    """
    assert ended(code, AGENTBUS_FLUSH_ON_SIGTERM="1").stdout == "False\nTrue\n"
