"""Panels and their places as the JSON that Grafana reads: kinds that are part of Grafana, every choice made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from otel_agentbus.telemetry.instruments import Metric

from .queries import Query, label, prometheus_name

Json = dict[str, Any]
Kind = Literal["stat", "timeseries", "bargauge"]

SCHEMA_VERSION = 41
WIDTH = 24  # of Grafana's grid
HEIGHTS: dict[str, int] = {"row": 1, "stat": 4}
HEIGHT = 8  # of all others
TAG = "otel_agentbus"
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows in which unit, and one sentence about it."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str
    kind: Kind = "timeseries"
    bars: bool = False  # one for each day, one on top of the other
    alarming: tuple[float, ...] = ()  # from here on orange, from there on red
    empty: str = "–"  # what stands there while there is no series
    exemplars: bool = False  # points that link to a trace

    def json(self) -> Json:
        """What Grafana reads of it, but for its number and its place."""
        panel: Json = {"type": self.kind, "title": self.title, "description": self.description}
        if self.bars:
            panel["interval"] = "1d"  # between two points: a day
        panel |= {"datasource": DATASOURCE, "fieldConfig": {"defaults": self._defaults(), "overrides": []}}
        panel["options"] = {"stat": _STAT, "timeseries": _TIMESERIES, "bargauge": _BARGAUGE}[self.kind]
        panel["targets"] = [self._target(ref, query) for ref, query in zip("ABCDEFGH", self.queries, strict=False)]
        return panel

    def _defaults(self) -> Json:
        colors = ("blue", "orange", "red") if len(self.alarming) == 2 else ("blue", "red")
        steps = [{"color": color, "value": value} for color, value in zip(colors, (None, *self.alarming), strict=False)]
        color = "palette-classic" if self.kind == "timeseries" else "thresholds"
        defaults: Json = {"unit": self.unit, "min": 0, "color": {"mode": color}, "noValue": self.empty}
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        if self.unit == "currencyUSD":
            defaults["decimals"] = 4  # a call costs fractions of a cent
        if self.kind == "timeseries":
            defaults["custom"] = _BARS if self.bars else _LINES
        return defaults

    def _target(self, ref: str, query: Query) -> Json:
        at_once = self.kind != "timeseries"
        target: Json = {"refId": ref, "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend}
        target |= {"editorMode": "code", "instant": at_once, "range": not at_once}
        return target | ({"exemplar": True} if self.exemplars else {})


@dataclass(frozen=True)
class Row:
    """A headline."""

    title: str

    def json(self) -> Json:
        """What Grafana reads of it, but for its number and its place."""
        return {"type": "row", "title": self.title, "collapsed": False, "panels": []}


#: Panels that stand side by side, equally wide.
Line = Sequence[Panel]


def stat(title: str, unit: str, query: Query, description: str, *alarming: float) -> Panel:
    """One number, of the chosen time or of now, which no series makes 0; from the alarming values on it is coloured."""
    return Panel(title, unit, (query,), description, "stat", alarming=alarming, empty="0")


def known(title: str, unit: str, query: Query, description: str, *alarming: float) -> Panel:
    """One number that is unknown, and not 0, where there is no series: a cost, a share, a time."""
    return Panel(title, unit, (query,), description, "stat", alarming=alarming)


def lines(title: str, unit: str, queries: Query | Sequence[Query], description: str) -> Panel:
    """How something changes; what is observed in histograms has exemplars, the traces behind it."""
    several = (queries,) if isinstance(queries, Query) else tuple(queries)
    exemplars = any("_bucket" in query.expr for query in several)
    return Panel(title, unit, several, description, exemplars=exemplars)


def days(title: str, unit: str, query: Query, description: str) -> Panel:
    """A bar for each day; choose a time of several days to see them."""
    return Panel(title, unit, (query,), description, bars=True)


def ranking(title: str, unit: str, query: Query, description: str) -> Panel:
    """Who has most of something in the chosen time, first."""
    return Panel(title, unit, (Query(f"sort_desc({query.expr})", query.legend),), description, "bargauge", empty="0")


def percentiles(title: str, unit: str, queries: Sequence[Query], description: str) -> Panel:
    """A few percentiles of the chosen time, side by side."""
    return Panel(title, unit, tuple(queries), description, "bargauge")


@dataclass(frozen=True)
class Variable:
    """A choice of the user: the values of a label."""

    name: str
    title: str
    metric: Metric
    attribute: str = "job"  # which is the service's name

    def json(self) -> Json:
        """What Grafana reads of it."""
        among = "" if self.name == "service" else '{job=~"$service"}'
        query = f"label_values({prometheus_name(self.metric)}{among}, {label(self.attribute)})"
        return {
            "type": "query",
            "name": self.name,
            "label": self.title,
            "datasource": DATASOURCE,
            "query": {"qryType": 1, "query": query, "refId": self.name},
            "refresh": 2,  # whenever the time is changed
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


@dataclass(frozen=True)
class Board:
    """A dashboard: `uid` is its address and, with `.json`, the name of its file."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    lines: tuple[Row | Line, ...]
    since: str = "now-1h"
    refresh: str = "10s"

    def json(self) -> Json:
        """What Grafana reads."""
        return {
            "uid": f"otel-agentbus-{self.uid}",
            "title": self.title,
            "description": self.description,
            "tags": [TAG, "genai"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,  # one cross-hair for all panels
            "refresh": self.refresh,
            "time": {"from": self.since, "to": "now"},
            "timezone": "browser",
            "annotations": {"list": []},
            "links": [_LINKS],
            "templating": {"list": [_SOURCE, *(variable.json() for variable in self.variables)]},
            "panels": self._panels(),
        }

    def _panels(self) -> list[Json]:
        panels: list[Json] = []
        y = 0
        for line in self.lines:
            side_by_side = [line] if isinstance(line, Row) else line
            width = WIDTH // len(side_by_side)
            shown = [each.json() for each in side_by_side]
            height = max(HEIGHTS.get(each["type"], HEIGHT) for each in shown)
            for number, each in enumerate(shown):
                place = {"x": number * width, "y": y, "w": width, "h": height}
                panels.append({"id": len(panels) + 1, **each, "gridPos": place})
            y += height
        return panels


_ONE_NUMBER: Json = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
_STAT: Json = _ONE_NUMBER | {"colorMode": "value", "graphMode": "none", "justifyMode": "auto", "textMode": "auto"}
_BARGAUGE: Json = _ONE_NUMBER | {"orientation": "horizontal", "displayMode": "basic", "showUnfilled": False}
_TIMESERIES: Json = {
    "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
    "tooltip": {"mode": "multi", "sort": "desc"},
}
_LINES: Json = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "auto", "spanNulls": False}
_BARS: Json = {
    "drawStyle": "bars",
    "lineWidth": 1,
    "fillOpacity": 80,
    "barAlignment": 1,  # a day's bar stands after the moment when the day begins
    "showPoints": "never",
    "stacking": {"mode": "normal", "group": "A"},
}
_SOURCE: Json = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "query": "prometheus",
    "hide": 2,
    "current": {"text": "Prometheus", "value": "prometheus"},
}
_LINKS: Json = {
    "type": "dashboards",
    "title": "",
    "tags": [TAG],
    "asDropdown": False,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "tooltip": "",
    "url": "",
}
