"""Where spools lie, how they are told apart, what is seen of them, and sending one by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from typer.testing import CliRunner

from otel_agentbus.cli import app
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.otlp import encode
from otel_agentbus.telemetry.spool import Found, SpoolingSpanExporter, key_of, spools
from otel_agentbus.telemetry.spool.dead_letters import DeadLetters
from otel_agentbus.telemetry.spool.directories import About, place_of
from otel_agentbus.telemetry.spool.resend import Undelivered, resend

from .faulty_endpoint import FaultyHttp, status
from .receivers import forget_environment
from .spooling import ScriptedSender, at_once, for_ever, spans, spool

__all__ = ["at_once", "for_ever"]  # fixtures

ENDPOINT = "https://me:password@otel.example.com:4318/v1/traces?token=geheim"
TARGET = Settings(
    traces_endpoint=ENDPOINT, traces_headers="Authorization=Bearer%20s3cret,x-scope-orgid=tenant", traces_protocol=None
).target("traces")


class Vendor(SpanExporter):
    def __init__(self, endpoint: str | None = None, headers: Any = None) -> None:
        self._endpoint, self._headers = endpoint, headers

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE


class TestKeys:
    def test_a_key_is_the_readable_host_and_a_hash(self) -> None:
        host, _, digest = key_of(TARGET).rpartition("-")
        assert host == "otel.example.com-4318"
        assert len(digest) == 16
        assert int(digest, 16)

    def test_what_is_no_identity_does_not_matter(self) -> None:
        same = replace(TARGET, timeout=1.0, compression="gzip", headers=tuple(reversed(TARGET.headers)))
        assert key_of(same) == key_of(TARGET)
        upper = replace(TARGET, headers=tuple((name.upper(), value) for name, value in TARGET.headers))
        assert key_of(upper) == key_of(TARGET)

    @pytest.mark.parametrize(
        "other",
        [
            {"endpoint": "https://me:password@otel.example.com:4318/v1/traces?token=other"},
            {"protocol": "grpc"},
            {"headers": (("authorization", "Bearer other"), ("x-scope-orgid", "tenant"))},
            {"headers": (("authorization", "Bearer s3cret"),)},
            {"headers": (("authorization", "Bearer s3cretx-scope-orgid"), ("", "tenant"))},
            {"credential_provider": "plugin"},
            {"client_certificate": "/etc/other.pem"},
        ],
    )
    def test_another_endpoint_protocol_or_credential_is_another_key(self, other: dict[str, Any]) -> None:
        assert key_of(replace(TARGET, **other)) != key_of(TARGET)

    def test_endpoints_without_a_scheme_have_a_host_too(self) -> None:
        assert key_of(replace(TARGET, endpoint="localhost:4317")).startswith("localhost-4317-")
        assert key_of(replace(TARGET, endpoint="[::1]:4317")).startswith("__1-4317-")
        assert key_of(replace(TARGET, endpoint="unix:///tmp/../x")).count("/") == 0

    def test_any_exporter_is_told_apart_by_its_class_endpoint_and_headers(self) -> None:
        exporters = [
            ConsoleSpanExporter(),
            Vendor(),
            Vendor("https://a.example/v1"),
            Vendor("https://b.example/v1"),
            Vendor("https://a.example/v1", {"key": "one"}),
            Vendor("https://a.example/v1", (("key", "two"),)),
            Vendor("https://a.example/v1", "key=three"),
            Vendor("https://a.example/v1", 4),
        ]
        keys = [place_of(exporter).key for exporter in exporters]
        assert len(set(keys)) == len(keys)
        assert keys == [place_of(exporter).key for exporter in exporters]
        assert keys[0].startswith("ConsoleSpanExporter-")
        assert keys[2].startswith("a.example-")

    def test_a_key_of_ones_own_stays_inside_the_directory(self) -> None:
        assert place_of(Vendor(), "../../etc/passwd").key == "_.._etc_passwd"
        assert place_of(Vendor(), "tenant-7").key == "tenant-7"


@pytest.mark.usefixtures("for_ever")
def test_no_secret_is_written_down(tmp_path: Path) -> None:
    sender: Any = ScriptedSender(default="refused")
    sender._target = TARGET
    with spool(sender, tmp_path, key=None) as exporter:
        exporter.export(spans("a"))
        sender.default = "unavailable"
        exporter.export(spans("b"))
        assert exporter.directory == tmp_path / key_of(TARGET)
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        written += "".join(str(path) for path in tmp_path.rglob("*")).encode()
    for secret in (b"s3cret", b"password", b"geheim", b"Bearer"):
        assert secret not in written
    about = json.loads((tmp_path / key_of(TARGET) / "about.json").read_text())
    assert about.pop("created").endswith("Z")
    assert about == {
        "endpoint": "https://***@otel.example.com:4318/v1/traces?***",
        "protocol": "http/protobuf",
        "headers": ["authorization", "x-scope-orgid"],
    }


@pytest.mark.usefixtures("for_ever")
def test_the_spools_are_listed_with_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "something else").mkdir()
    (tmp_path / "a file").touch()
    with spool(ScriptedSender("refused", default="unavailable"), tmp_path, key="a") as a:
        a.export(spans("x"))
        a.export(spans("y", "z"))
        with spool(ScriptedSender(default="unavailable"), tmp_path, key="b") as b:
            b.export(spans("x"))
        size = sum(path.stat().st_size for path in (tmp_path / "b").glob("*.seg"))
        first, second = spools(tmp_path)
        assert (first.key, first.waiting, first.dead_letters, first.owned) == ("a", 2, 1, True)
        about = second.about
        assert about is not None
        assert about.created
        assert second == Found("b", tmp_path / "b", replace(about), 1, size, 0, False)
        assert replace(about, created="") == About("ScriptedSender", "tests.spooling.ScriptedSender")
    assert spools(tmp_path / "nothing") == []


@pytest.mark.usefixtures("for_ever")
class TestResending:
    def fill(self, directory: Path) -> Path:
        sender = ScriptedSender("refused", default="unavailable")
        with spool(sender, directory) as exporter:
            exporter.export(spans("refused"))
            exporter.export(spans("a", "b"))
            exporter.export(spans("c"))
        return directory / "endpoint"

    def test_it_sends_what_waits_in_order(self, tmp_path: Path) -> None:
        directory, sender, told = self.fill(tmp_path), ScriptedSender(), []
        counts = resend(directory, sender, lambda done, total: told.append((done, total)))
        assert sender.taken == [encode(spans("a", "b")), encode(spans("c"))]
        assert (counts.delivered, counts.spooled, counts.balanced) == (3, 0, True)
        assert told == [(2, 3), (3, 3)]
        assert DeadLetters(directory, 0).spans == 1
        assert resend(directory, sender).delivered == 0

    def test_it_sends_dead_letters_if_asked(self, tmp_path: Path) -> None:
        directory, sender = self.fill(tmp_path), ScriptedSender()
        counts = resend(directory, sender, dead_letters=True)
        assert (sender.names, counts.delivered, counts.balanced) == (["refused", "a", "b", "c"], 4, True)
        assert list(directory.glob("dead-letters*")) == []

    def test_what_is_refused_again_is_a_dead_letter_again(self, tmp_path: Path) -> None:
        directory = self.fill(tmp_path)
        counts = resend(directory, ScriptedSender(default="refused"), dead_letters=True)
        assert (counts.dead_lettered, counts.balanced) == (4, True)
        assert [letter.spans for letter in DeadLetters(directory, 0).read()] == [1, 2, 1]

    def test_what_is_not_taken_stays(self, tmp_path: Path) -> None:
        directory, sender = self.fill(tmp_path), ScriptedSender("delivered", default="unavailable")
        with pytest.raises(Undelivered) as caught:
            resend(directory, sender)
        assert (caught.value.counts.delivered, caught.value.counts.spooled) == (2, 1)
        with pytest.raises(Undelivered):
            resend(directory, sender, dead_letters=True)
        again = ScriptedSender()
        resend(directory, again, dead_letters=True)
        assert again.names == ["refused", "c"]

    def test_what_a_living_process_holds_is_left_to_it(self, tmp_path: Path) -> None:
        sender = ScriptedSender()
        with spool(ScriptedSender(default="unavailable"), tmp_path) as exporter:
            exporter.export(spans("a"))
            assert resend(tmp_path / "endpoint", sender).delivered == 0
        assert resend(tmp_path / "endpoint", sender).delivered == 1

    def test_the_command_says_what_it_did(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        forget_environment(monkeypatch)
        directory = self.fill(tmp_path)
        with FaultyHttp(default=status(503)) as endpoint:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.url)
            runner = CliRunner()
            down = runner.invoke(app, ["resend", str(directory)])
            assert down.exit_code == 1
            assert "The rest is kept" in down.output
            endpoint.default = status(200)
            up = runner.invoke(app, ["resend", str(tmp_path), "--dead-letters"])
            assert (up.exit_code, up.output) == (0, f"4 spans sent (otlp to {endpoint.url}).\n")
            assert endpoint.names() == ["refused", "a", "b", "c"]
            nothing = runner.invoke(app, ["resend", str(tmp_path)])
            assert (nothing.exit_code, nothing.output) == (0, f"0 spans sent (otlp to {endpoint.url}).\n")

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            ([], "is no directory: name one of a spool"),
            (["."], "holds no spool: name the directory of one"),
            (["a", "b"], "holds the spools of several endpoints: name one of them"),
        ],
    )
    def test_the_command_wants_one_spool(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: list[str], said: str
    ) -> None:
        forget_environment(monkeypatch)
        root = tmp_path / "root"
        for name in make:
            (root / name).mkdir(parents=True)
            if name != ".":
                (root / name / "about.json").write_text('{"endpoint":"e","protocol":"p","headers":[],"created":""}')
        result = CliRunner().invoke(app, ["resend", str(root)])
        assert result.exit_code == 2
        assert said in result.output


def test_a_torn_line_of_dead_letters_costs_only_itself(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path, 100_000)
    letters.write("refused", "e", 1, b"one")
    with letters.path.open("ab") as file:
        file.write(b'{"time": "2026\n')
    letters.write("refused", "e", 2, b"two")
    assert [letter.otlp for letter in letters.read()] == [b"one", b"two"]


def test_letters_that_were_taken_by_a_process_that_died_are_not_lost(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path, 100_000)
    letters.write("refused", "e", 1, b"one")
    letters.path.rename(tmp_path / "dead-letters.taken.jsonl")
    letters.write("refused", "e", 1, b"two")
    with letters.taken() as waiting:
        assert [letter.otlp for letter in waiting] == [b"one", b"two"]
        letters.write("refused again", "e", 1, b"three")
        waiting.pop(0)
    assert [letter.otlp for letter in letters.read()] == [b"two", b"three"]


def test_a_spool_of_a_vendors_exporter_is_in_its_own_directory(tmp_path: Path) -> None:
    exporter = SpoolingSpanExporter(Vendor("https://a.example/v1", {"key": "one"}), tmp_path, exit_timeout=0.1)
    exporter.export(spans("a"))
    exporter.shutdown()
    (found,) = spools(tmp_path)
    assert found.about is not None
    assert (found.waiting, found.about.endpoint, found.about.headers) == (1, "https://a.example/v1", ("key",))
