"""The dashboards and alert rules as files: generated, complete, and asking for nothing that is not measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import Field

from deploy.grafana.__main__ import DASHBOARDS, main, rendered
from deploy.grafana.boards import BOARDS
from deploy.grafana.queries import label, prometheus_name
from otel_agentbus.telemetry.instruments import Metric
from tests.grafana import GRID, Dashboard, Row, Strict
from tests.measured import TABLE, family, labels, samples

ALERTS = Path(__file__).parents[1] / "deploy" / "alerts.yml"
SAMPLES = {sample: metric for metric in TABLE for sample in samples(metric)}
UNITS = {"short", "s", "percentunit", "currencyUSD"}
FILES = {path.stem: path.read_text() for path in sorted(DASHBOARDS.glob("*.json"))}


@pytest.fixture(params=FILES)
def dashboard(request: pytest.FixtureRequest) -> Dashboard:
    """Each of the dashboards, as Grafana is started with it."""
    return Dashboard.model_validate_json(FILES[request.param])


def test_the_files_are_what_their_source_says() -> None:
    """If this fails: `make dashboards`."""
    assert {board.uid: rendered(board) for board in BOARDS} == FILES


def test_there_are_four_dashboards_with_addresses_of_their_own() -> None:
    boards = {name: json.loads(text) for name, text in FILES.items()}
    assert sorted(boards) == ["cost", "delivery", "latency", "overview"]
    assert {name: board["uid"] for name, board in boards.items()} == {name: f"otel-agentbus-{name}" for name in boards}
    assert len({board["title"] for board in boards.values()}) == 4


def test_panels_fill_the_page_without_a_gap_or_an_overlap(dashboard: Dashboard) -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in dashboard.rows:
        place = panel.place
        for cell in ((x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)):
            assert cell not in cells, f"{panel.title} lies over {cells[cell]}"
            cells[cell] = panel.title
    height = max(panel.place.y + panel.place.h for panel in dashboard.rows)
    assert set(cells) == {(x, y) for x in range(GRID) for y in range(height)}
    assert all(row.place.w == GRID for row in dashboard.rows if isinstance(row, Row))


def test_panels_have_numbers_and_titles_of_their_own(dashboard: Dashboard) -> None:
    assert len({panel.id for panel in dashboard.rows}) == len(dashboard.rows)
    for one, other in combinations(dashboard.panels, 2):
        assert (one.title, one.type) != (other.title, other.type)
    assert all(len({target.ref_id for target in panel.targets}) == len(panel.targets) for panel in dashboard.panels)


def test_units_are_known_and_fit_the_number(dashboard: Dashboard) -> None:
    for panel in dashboard.panels:
        unit = panel.fields.defaults.unit
        assert unit in UNITS, panel.title
        about = {_metric(name) for target in panel.targets for name, _filters in _selectors(target.expr)}
        if unit == "currencyUSD":
            assert {metric.unit for metric in about} == {"{USD}"}, panel.title
        if unit == "s":
            assert {(metric.unit, metric.kind) for metric in about} == {("s", "histogram")}, panel.title


def test_queries_ask_for_what_is_measured(dashboard: Dashboard) -> None:
    """Each name is a metric's, each label one of that metric's."""
    for panel in dashboard.panels:
        for target in panel.targets:
            selectors = list(_selectors(target.expr))
            assert selectors, panel.title
            by = _grouped(target.expr)
            for name, filters in selectors:
                assert filters | by <= labels(_metric(name)), f"{panel.title}: {target.expr}"
            shown = set(re.findall(r"\{\{(\w+)\}\}", target.legend))
            assert shown == by - {"le"}, f"{panel.title}: the legend names what the query groups by"


def test_queries_obey_all_choices_that_their_metrics_have(dashboard: Dashboard) -> None:
    """Whoever chooses an agent sees nothing of others."""
    chosen = {"job": "service", "gen_ai_agent_name": "agent", "gen_ai_request_model": "model"}
    for panel in dashboard.panels:
        for target in panel.targets:
            for name, filters in re.findall(r"(\w+)\{([^}]*)\}", target.expr):
                obeyed = dict(re.findall(r'(\w+)=~"\$(\w+)"', filters))
                having = {key: value for key, value in chosen.items() if key in labels(_metric(name))}
                assert obeyed == {key: value for key, value in having.items() if value in dashboard.variables}


def test_queries_use_no_other_variables_than_there_are(dashboard: Dashboard) -> None:
    grafanas = {"__range", "__range_s", "__rate_interval"}
    for panel in dashboard.panels:
        for target in panel.targets:
            assert set(re.findall(r"\$(\w+)", target.expr)) <= dashboard.variables | grafanas, panel.title


def test_counters_are_never_shown_bare(dashboard: Dashboard) -> None:
    """A counter's value depends on when its process began: only how it changes says something."""
    for panel in dashboard.panels:
        for target in panel.targets:
            for name, _filters in _selectors(target.expr):
                over_a_time = bool(re.search(rf"\b{name}\{{[^}}]*\}}\[", target.expr))
                assert over_a_time is (_metric(name).kind in {"counter", "histogram"}), target.expr


def test_totals_are_asked_once_and_lines_over_time(dashboard: Dashboard) -> None:
    for panel in dashboard.panels:
        over_time = panel.type == "timeseries"
        assert {(target.instant, target.range) for target in panel.targets} == {(not over_time, over_time)}
        whole = ["$__range]" in target.expr for target in panel.targets]
        assert not (over_time and any(whole)), panel.title


def test_percentiles_over_time_have_exemplars() -> None:
    boards = [Dashboard.model_validate_json(text) for text in FILES.values()]
    panels = [panel for board in boards for panel in board.panels if panel.type == "timeseries"]
    for panel in panels:
        assert {target.exemplar for target in panel.targets} == {"_bucket" in panel.targets[0].expr}


def test_all_that_is_ours_is_on_some_dashboard() -> None:
    asked = {_metric(name).name for text in FILES.values() for name, _filters in _selectors(text)}
    assert {metric.name for metric in TABLE if metric.name.startswith("agentbus.")} - asked == set()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("agentbus.cost.spent", "agentbus_cost_spent_total"),
        ("agentbus.agent.active", "agentbus_agent_active"),
        ("agentbus.budget.used", "agentbus_budget_used_ratio"),
        ("agentbus.deployment.lead_time", "agentbus_deployment_lead_time_seconds"),
        ("gen_ai.client.token.usage", "gen_ai_client_token_usage"),
    ],
)
def test_names_are_translated_as_the_collector_does(name: str, expected: str) -> None:
    (metric,) = (metric for metric in TABLE if metric.name == name)
    assert (family(metric), prometheus_name(metric)) == (expected, expected)


def test_source_and_tests_translate_all_names_alike() -> None:
    assert {metric.name: prometheus_name(metric) for metric in TABLE} == {each.name: family(each) for each in TABLE}
    assert all(label(attribute) in labels(metric) for metric in TABLE for attribute in metric.attributes)


# -- alert rules ------------------------------------------------------------------------------------------------------
class Texts(Strict):
    summary: str = Field(min_length=10)
    description: str = Field(min_length=80)  # enough to say what to do


class Severity(Strict):
    severity: Literal["critical", "warning"]


class AlertRule(Strict):
    alert: str = Field(pattern=r"^Agent[A-Za-z]+$")
    expr: str
    lasting: str = Field("0s", alias="for", pattern=r"^\d+[smh]$")
    labels: Severity
    annotations: Texts


def _rules() -> Iterator[AlertRule]:
    content: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    for group in content["groups"]:
        yield from map(AlertRule.model_validate, group["rules"])


RULES = {rule.alert: rule for rule in _rules()}


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> AlertRule:
    return RULES[request.param]


def test_alerts_have_names_of_their_own() -> None:
    assert len(RULES) == len(list(_rules()))


def test_alerts_ask_for_what_is_measured(rule: AlertRule) -> None:
    """Each name is a metric's, or the label of a metric that is asked for."""
    said = set(re.findall(r"\b(?:agentbus|gen_ai)_\w+", rule.expr))
    asked = {SAMPLES[name] for name in said if name in SAMPLES}
    assert asked or "up{" in rule.expr
    known = set.union(set(), *(labels(metric) for metric in asked))
    assert {name for name in said if name not in SAMPLES} <= known
    assert _grouped(rule.expr) <= known


def test_alerts_run_on_any_prometheus(rule: AlertRule) -> None:
    """They use nothing that a flag must allow."""
    assert not re.search(r"\b(?:anchored|smoothed)\b", rule.expr)


def test_alerts_name_the_labels_that_they_have(rule: AlertRule) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", rule.annotations.summary + rule.annotations.description))
    assert used
    assert used <= _grouped(rule.expr) | ({"instance", "job"} if rule.expr.startswith("up{") else set())


def test_alerts_lead_to_dashboards_that_exist(rule: AlertRule) -> None:
    titles = {json.loads(text)["title"] for text in FILES.values()}
    assert set(re.findall(r'dashboard "([^"]+)"', rule.annotations.description)) <= titles


# -- reading PromQL ---------------------------------------------------------------------------------------------------
def _selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """The names that an expression asks for, and the labels by which it filters them."""
    for name, filters in re.findall(r"\b((?:agentbus|gen_ai)_\w+)\{([^}]*)\}", expr):
        yield name, set(re.findall(r"(\w+)=~", filters))


def _metric(sample: str) -> Metric:
    return SAMPLES[sample]


def _grouped(expr: str) -> set[str]:
    """The labels by which an expression groups."""
    groups = re.findall(r"\bby \(([^)]*)\)", expr)
    return {label for group in groups for label in re.split(r",\s*", group)}


def test_plain_dashboards_ask_nothing_that_needs_a_flag(tmp_path: Path) -> None:
    main(["--plain", str(tmp_path)])
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    shipped = {path.name: path.read_text() for path in DASHBOARDS.iterdir()}
    assert written == {name: text.replace(" anchored", "") for name, text in shipped.items()}
    assert any("anchored" in text for text in shipped.values())
