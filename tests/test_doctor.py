"""`otel-agentbus doctor`, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from otel_agentbus.cli import app
from otel_agentbus.cli.doctor import examine
from otel_agentbus.cli.traps import Finding
from otel_agentbus.settings import Settings
from tests.receivers import GrpcReceiver, HttpReceiver, Reply, forget_environment, in_a_process_of_its_own


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], env={**environment, "COLUMNS": "200"})


def test_a_healthy_endpoint_ends_with_zero_and_is_shown_for_people() -> None:
    with HttpReceiver() as receiver:
        result = run(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20s3cr3t",
            AGENTBUS_ID_KEY="s3cr3t",
            OTEL_SERVICE_NAME="[red]shop",
        )
        assert len(receiver.received) == 2
    assert result.exit_code == 0, result.output
    assert "s3cr3t" not in result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT {receiver.url} (environment)" in lines
    assert "OTEL_EXPORTER_OTLP_HEADERS authorization=*** (environment)" in lines
    assert "AGENTBUS_ID_KEY *** (environment)" in lines
    assert "OTEL_SERVICE_NAME [red]shop (environment)" in lines
    assert f"traces: a pipeline of our own, http/protobuf to {receiver.url}/v1/traces" in lines
    assert any(line.startswith("probe of traces: accepted (200) in ") for line in lines)
    assert "✓ No problem found." in lines


def test_a_problem_ends_with_one() -> None:
    with HttpReceiver({"/v1/metrics": Reply(404)}) as receiver:
        result = run(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert result.exit_code == 1
    assert "as Jaeger does" in " ".join(result.output.split())


def test_wrong_settings_are_problems_and_nothing_is_sent() -> None:
    result = run("--json", OTEL_EXPORTER_OTLP_PROTOCOL="gprc", AGENTBUS_GRACE="soon")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["healthy"], report["probes"], report["settings"]) == (False, [], {})
    assert [finding["sentence"].partition(":")[0] for finding in report["findings"]] == [
        "AGENTBUS_GRACE is 'soon'",
        "OTEL_EXPORTER_OTLP_PROTOCOL is 'gprc'",
    ]


def test_json_has_everything_and_no_secret() -> None:
    with GrpcReceiver(signals=("traces",)) as receiver:
        result = run(
            "--json",
            "--timeout",
            "5",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{receiver.address}",
            OTEL_EXPORTER_OTLP_HEADERS="authorization=s3cr3t",
        )
    assert result.exit_code == 1
    assert "s3cr3t" not in result.output
    report = json.loads(result.stdout)
    assert set(report) == {
        "healthy",
        "settings",
        "pipeline",
        "probes",
        "adapters",
        "silent_scopes",
        "money",
        "on_disk",
        "on_broker",
        "findings",
    }
    assert len(report["settings"]) == len(Settings.model_fields)
    assert report["settings"]["OTEL_EXPORTER_OTLP_HEADERS"] == {"value": "authorization=***", "from": "environment"}
    assert report["settings"]["AGENTBUS_GRACE"] == {"value": "2", "from": "default"}
    assert [(item["signal"], item["outcome"], item["code"]) for item in report["probes"]] == [
        ("traces", "accepted", "OK"),
        ("metrics", "refused", "UNIMPLEMENTED"),
    ]


def test_all_shows_the_defaults_too() -> None:
    few, all_of_them = run(), run("--all")
    assert "AGENTBUS_GRACE" not in few.output
    assert "AGENTBUS_GRACE" in all_of_them.output


def test_without_variables_doctor_says_that_nothing_leaves() -> None:
    result = run()
    assert result.exit_code == 1
    assert "Nothing leaves the process" in result.output


def test_adapters_are_shown_with_what_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_agentbus import adapters

    monkeypatch.setattr(adapters, "available", lambda: {"one": "1.0", "two": None, "three": "3.0"})
    monkeypatch.setattr(adapters, "auto", lambda: ("one",))
    monkeypatch.setenv("AGENTBUS_INSTRUMENT", "auto")
    assert examine().as_json()["adapters"] == {
        "one": {"installed": "1.0", "on": True},
        "two": {"installed": None, "on": False},
        "three": {"installed": "3.0", "on": False},
    }


def test_scopes_that_are_silent_because_of_an_adapter_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_agentbus import adapters
    from otel_agentbus.adapters.scopes import SCOPES

    installed = {"otel": "1.45.2", "strands": "1.62.0", "crewai": None}
    monkeypatch.setattr(adapters, "available", lambda: installed)
    for named, silent in (("otel,strands,crewai", {"strands": list(SCOPES["strands"])}), ("otel", {}), ("strands", {})):
        monkeypatch.setenv("AGENTBUS_INSTRUMENT", named)
        assert examine().as_json()["silent_scopes"] == silent
        said = " ".join(run(AGENTBUS_INSTRUMENT=named).output.split())
        assert ("otel passes over, because of strands: strands.telemetry.tracer," in said) is bool(silent)


def test_console_needs_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    report = examine()
    assert report.as_json()["probes"] == []
    assert report.pipeline == {"traces": "a pipeline of our own, console", "metrics": "not exported"}
    assert report.healthy


def test_a_provider_that_is_global_already_is_the_one_that_connect_will_use() -> None:
    code = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from otel_agentbus.cli.doctor import examine

provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter("http://127.0.0.1:1/v1/traces")))
trace.set_tracer_provider(provider)
report = examine(timeout=1)
print(json.dumps([report.facts.application_endpoints, report.pipeline["traces"]]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        ["http://127.0.0.1:1/v1/traces"],
        "through the application's own provider, as far as it is set before connect()",
    ]


def test_help_lists_the_commands_without_importing_them() -> None:
    code = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from otel_agentbus.cli import app
result = CliRunner().invoke(app, ["--help"])
assert result.exit_code == 0, result.output
assert "doctor" in result.output and "demo" in result.output
print([name for name in ("otel_agentbus.cli.doctor", "otel_agentbus.cli.demo", "grpc") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_has_its_own_help_and_the_program_its_version() -> None:
    helped = CliRunner().invoke(app, ["doctor", "--help"], env={"COLUMNS": "200"})
    assert (helped.exit_code, "--json" in helped.output, "--timeout" in helped.output) == (0, True, True)
    version = CliRunner().invoke(app, ["--version"])
    assert (version.exit_code, version.output.split()[0]) == (0, "otel-agentbus")


def test_a_wrong_option_is_refused() -> None:
    assert run("--no-such-option").exit_code == 2


def test_findings_are_values() -> None:
    assert Finding("hint", "a") == Finding("hint", "a")


def test_what_is_kept_on_disk_is_told_and_what_is_nobodys_gets_a_hint(tmp_path: Path) -> None:
    with HttpReceiver({"/v1/traces": Reply(503)}) as away:
        left = in_a_process_of_its_own(
            """
            import json
            import otel_agentbus as agentbus
            with agentbus.connect() as bus, agentbus.agent("a"):
                pass
            print(json.dumps(bus.health()["spans"]["spooled"]))
            """,
            OTEL_EXPORTER_OTLP_ENDPOINT=away.url,
            OTEL_METRICS_EXPORTER="none",
            AGENTBUS_SPOOL_DIR=str(tmp_path),
        )
        url = away.url
    assert left == 1
    with HttpReceiver() as receiver:
        result = run("--json", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, AGENTBUS_SPOOL_DIR=str(tmp_path))
    report = json.loads(result.stdout)
    (spool,) = report["on_disk"]["spools"]
    assert (spool["waiting"], spool["endpoint"], spool["in_use"]) == (1, f"{url}/v1/traces", False)
    hints = [finding["sentence"] for finding in report["findings"] if finding["level"] == "hint"]
    assert any(f"`otel-agentbus resend {spool['path']}` sends them." in hint for hint in hints)
    assert report["healthy"]
