"""`otel-agentbus doctor`: which settings are in force, whether the endpoint answers, and what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otel_agentbus.adapters.scopes import in_short, silenced
from otel_agentbus.cli.money import Money, money
from otel_agentbus.cli.on_broker import OnBroker, on_broker
from otel_agentbus.cli.on_disk import OnDisk, on_disk
from otel_agentbus.cli.traps import READER, Facts, Finding, findings
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.targets import Target
from otel_agentbus.values import SIGNALS, Signal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from otel_agentbus.telemetry.probe import Answer

_LONGEST = 10.0
_WORDS = {
    "accepted": "accepted",
    "partial": "partial success",
    "refused": "refused",
    "redirected": "redirected",
    "timeout": "timeout",
    "closed": "connection refused",
    "unresolved": "unknown host",
    "tls": "TLS failed",
    "broken": "connection broken",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What `doctor` says."""

    facts: Facts | None
    pipeline: dict[str, str]
    findings: list[Finding]
    money: Money | None = None
    on_disk: OnDisk | None = None
    on_broker: OnBroker | None = None

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; hints do not count."""
        return not any(finding.level == "problem" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report for machines; secrets are masked as for people."""
        facts = self.facts
        settings = facts.settings if facts else None
        return {
            "healthy": self.healthy,
            "settings": {
                settings.origin(name).variable: {"value": settings.shown(name), "from": settings.origin(name).kind}
                for name in Settings.model_fields
            }
            if settings
            else {},
            "pipeline": self.pipeline,
            "probes": [asdict(answer) for answer in facts.answers] if facts else [],
            "adapters": {
                name: {"installed": version, "on": name in facts.instrumented}
                for name, version in facts.adapters.items()
            }
            if facts
            else {},
            "silent_scopes": {name: list(scopes) for name, scopes in _silent(facts)} if facts else {},
            "money": asdict(self.money) if self.money else {},
            "on_disk": asdict(self.on_disk) if self.on_disk else {},
            "on_broker": asdict(self.on_broker) if self.on_broker else {},
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(timeout: float | None = None, prometheus: str | None = None) -> Report:
    """Observe everything, send the probes, ask Prometheus for unpriced calls if it is named, and judge."""
    try:
        settings = Settings()
        known = money(settings, prometheus)
        facts = observe(settings, timeout)
        disk = on_disk(settings)
        broker = on_broker(settings, timeout)
    except ConfigurationError as error:
        return Report(None, {}, [Finding("problem", sentence) for sentence in str(error).splitlines()])
    wrong = [Finding("problem", sentence) for sentence in (broker.problems() if broker else ())]
    hints = [Finding("hint", sentence) for sentence in (*disk.hints(), *(broker.hints() if broker else ()))]
    found = [*wrong, *findings(facts), *_about(known), *hints]
    return Report(facts, _pipeline(facts), found, known, disk, broker)


def _about(known: Money) -> Iterator[Finding]:
    """Each model without a price once; that nobody could be asked is no fault of the telemetry."""
    if known.prices is None and known.price_file is None:
        yield Finding("hint", "There is no price list: install otel-agentbus[prices], or set AGENTBUS_PRICES.")
    for told in known.unpriced or ():
        yield Finding("hint", told.sentence)
    if known.trouble is not None:
        yield Finding("hint", known.trouble)


def observe(settings: Settings, timeout: float | None = None) -> Facts:
    """The facts about this process and its endpoint; settings that contradict one another raise."""
    targets = [settings.target(signal) for signal in SIGNALS if "otlp" in settings.exporters(signal)]
    facts = Facts(
        settings,
        answers=_probed(settings, targets, timeout),
        distributions=tuple(sorted({str(found.name).lower() for found in distributions() if found.name})),
        application_endpoints=_application_endpoints(),
        auto_instrumented="auto_instrumentation" in str(getattr(sys.modules.get("sitecustomize"), "__file__", "")),
    )
    return _with_adapters(facts)


def _probed(settings: Settings, targets: list[Target], timeout: float | None) -> tuple[Answer, ...]:
    if not targets:
        return ()
    from otel_agentbus.telemetry.probe import probe
    from otel_agentbus.telemetry.providers import make_resource

    limit = timeout or min(_LONGEST, max(target.timeout for target in targets))
    return tuple(probe(targets, dict(make_resource(settings).attributes), limit))


def _with_adapters(facts: Facts) -> Facts:
    try:
        from otel_agentbus import adapters
    except ImportError:
        return facts
    named = facts.settings.instrument
    return replace(
        facts,
        adapters=adapters.available(),
        instrumented=adapters.auto() if named == ("auto",) else named,
    )


def _application_endpoints() -> tuple[str, ...] | None:
    """Where this process's global provider exports to, as far as the SDK lets one look."""
    from otel_agentbus.telemetry.providers import application_tracer_provider

    provider = application_tracer_provider()
    if provider is None:
        return None
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    exporters = (getattr(processor, "span_exporter", None) for processor in processors)
    endpoints = (getattr(exporter, "_endpoint", None) for exporter in exporters)
    return tuple(endpoint for endpoint in endpoints if isinstance(endpoint, str))


def _pipeline(facts: Facts) -> dict[str, str]:
    """Which way each signal takes, in a sentence."""
    found = _own_pipeline(facts)
    if facts.settings.relays:
        found["traces"] = "made by a relay, of the events that the broker takes"
    return found


def _own_pipeline(facts: Facts) -> dict[str, str]:
    if facts.application_endpoints is not None:
        return dict.fromkeys(SIGNALS, "through the application's own provider, as far as it is set before connect()")
    return {signal: _way(facts.settings, signal) for signal in SIGNALS}


def _way(settings: Settings, signal: Signal) -> str:
    target = settings.target(signal)
    otlp = f"{target.protocol} to {target.shown}"
    ways = [otlp if name == "otlp" else name for name in settings.exporters(signal)]
    return f"a pipeline of our own, {' and '.join(ways)}" if ways else "not exported"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds to wait for an answer; else the exporters', at most 10.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show the settings that have their default, too.")] = False,
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="List the models without a price that this Prometheus knows of.")
    ] = None,
) -> None:
    """Say which settings are in force, whether the endpoint answers (sends one probe span and one probe metric), which
    adapters are on, and what is wrong. Exit code 0: fine; 1: a problem was found.
    """
    report = examine(timeout, prometheus)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        from rich.console import Console

        _show(report, Console(highlight=False), every)
    raise typer.Exit(0 if report.healthy else 1)


def _show(report: Report, console: Console, every: bool) -> None:
    """The report for people; nothing that came from outside is read as markup."""
    if report.facts is not None:
        _show_settings(report.facts.settings, console, every)
        _show_way(report, report.facts, console)
    if report.money is not None:
        _show_money(report.money, console)
    if report.on_disk is not None:
        console.print("\nOn disk", style="bold")
        for line in report.on_disk.lines():
            console.print(f"  {line}", markup=False)
    if report.on_broker is not None:
        console.print("\nBroker", style="bold")
        for line in report.on_broker.lines():
            console.print(f"  {line}", markup=False)
    _show_findings(report, console)


def _show_money(known: Money, console: Console) -> None:
    console.print("\nMoney", style="bold")
    own = [] if known.price_file is None else [f"your own file {known.price_file}"]
    sources = [*own, *([known.prices] if known.prices else [])]
    console.print(f"  prices: {', then '.join(sources) or 'none'}", markup=False)
    console.print(f"  budgets: {', '.join(known.budgets) or 'none'}", markup=False)


def _show_findings(report: Report, console: Console) -> None:
    table = _columns()
    for finding in report.findings:
        sign, style = ("✗", "red") if finding.level == "problem" else ("·", "dim")
        table.add_row(sign, _plain(finding.sentence), style=style)
    if report.healthy:
        table.add_row("✓", "No problem found.", style="green")
    console.print("\nFindings", style="bold")
    console.print(table)


def _columns() -> Table:
    from rich.table import Table

    return Table(box=None, show_header=False, padding=(0, 1, 0, 1))


def _show_settings(settings: Settings, console: Console, every: bool) -> None:
    table = _columns()
    shown = [name for name in Settings.model_fields if every or settings.origin(name).kind != "default"]
    for name in shown:
        origin = settings.origin(name)
        table.add_row(_plain(origin.variable), _plain(settings.shown(name)), _plain(f"({origin.kind})"))
    console.print("Settings", style="bold")
    if shown:
        console.print(table)
    if rest := len(Settings.model_fields) - len(shown):
        console.print(f"  {rest} settings have their default (--all shows them).", style="dim")


def _show_way(report: Report, facts: Facts, console: Console) -> None:
    console.print("\nPipeline", style="bold")
    for signal, way in report.pipeline.items():
        console.print(f"  {signal}: {way}", markup=False)
    for answer in facts.answers:
        code = f" ({answer.code})" if answer.code else ""
        words = f": {answer.words}" if answer.words else ""
        line = f"  probe of {answer.signal}: {_WORDS[answer.outcome]}{code} in {answer.seconds * 1000:.0f} ms{words}"
        console.print(line, style="green" if answer.outcome == "accepted" else "red", markup=False)
    console.print("\nAdapters", style="bold")
    for name, version in facts.adapters.items():
        state = "not installed" if version is None else f"{version}, {'on' if name in facts.instrumented else 'off'}"
        console.print(f"  {name}: {state}", markup=False)

    for name, _ in _silent(facts):
        console.print(f"  {READER} passes over, because of {name}: {in_short(name)}", markup=False)


def _silent(facts: Facts) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The scopes whose spans are not read as events, because a framework's own adapter tells the same."""
    installed = [name for name in facts.instrumented if facts.adapters.get(name) is not None]
    return silenced(installed) if READER in installed else iter(())


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text(text)
