"""What Grafana reads of a dashboard: a field that is not here would be ignored by it, so none may be written."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: The columns of a page.
GRID = 24


class Strict(BaseModel):
    """An object of a dashboard's JSON, with no other fields than these."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Place(Strict):
    x: int = Field(ge=0, lt=GRID)
    y: int = Field(ge=0)
    w: int = Field(gt=0, le=GRID)
    h: int = Field(gt=0)


class Target(Strict):
    ref_id: str = Field(alias="refId")
    datasource: Source
    expr: str = Field(min_length=1)
    legend: str = Field(alias="legendFormat", min_length=1)
    editor: Literal["code"] = Field(alias="editorMode")
    instant: bool
    range: bool
    exemplar: bool = False


class Step(Strict):
    color: Literal["blue", "orange", "red"]
    value: float | None


class Thresholds(Strict):
    mode: Literal["absolute"]
    steps: list[Step]


class Color(Strict):
    mode: Literal["palette-classic", "thresholds"]


class Stacking(Strict):
    mode: Literal["normal"]
    group: str


class Drawing(Strict):
    style: Literal["line", "bars"] = Field(alias="drawStyle")
    line_width: int = Field(alias="lineWidth")
    fill_opacity: int = Field(alias="fillOpacity")
    points: Literal["auto", "never"] = Field(alias="showPoints")
    span_nulls: bool = Field(False, alias="spanNulls")
    alignment: Literal[-1, 0, 1] = Field(0, alias="barAlignment")
    stacking: Stacking | None = None


class Defaults(Strict):
    unit: str
    min: float
    color: Color
    empty: Literal["0", "–"] = Field(alias="noValue")
    thresholds: Thresholds
    decimals: int | None = None
    custom: Drawing | None = None


class Fields(Strict):
    defaults: Defaults
    overrides: list[None]


class Reduce(Strict):
    calcs: list[Literal["lastNotNull"]]
    fields: str
    values: bool


class StatOptions(Strict):
    reduce: Reduce = Field(alias="reduceOptions")
    color_mode: Literal["value"] = Field(alias="colorMode")
    graph_mode: Literal["none"] = Field(alias="graphMode")
    justify_mode: Literal["auto"] = Field(alias="justifyMode")
    text_mode: Literal["auto"] = Field(alias="textMode")


class GaugeOptions(Strict):
    reduce: Reduce = Field(alias="reduceOptions")
    orientation: Literal["horizontal"]
    display_mode: Literal["basic"] = Field(alias="displayMode")
    show_unfilled: bool = Field(alias="showUnfilled")


class Legend(Strict):
    calcs: list[str]
    display_mode: Literal["list", "table"] = Field(alias="displayMode")
    placement: Literal["bottom", "right"]
    show: bool = Field(alias="showLegend")


class Tooltip(Strict):
    mode: Literal["single", "multi"]
    sort: Literal["none", "asc", "desc"]


class SeriesOptions(Strict):
    legend: Legend
    tooltip: Tooltip


class Row(Strict):
    id: int = Field(gt=0)
    type: Literal["row"]
    title: str = Field(min_length=1)
    collapsed: Literal[False]
    panels: list[None]
    place: Place = Field(alias="gridPos")


class Panel(Strict):
    id: int = Field(gt=0)
    type: Literal["stat", "timeseries", "bargauge"]  # all of them parts of Grafana
    title: str = Field(min_length=1)
    description: str = Field(min_length=10)
    interval: Literal["1d"] | None = None
    datasource: Source
    fields: Fields = Field(alias="fieldConfig")
    options: StatOptions | GaugeOptions | SeriesOptions
    targets: list[Target] = Field(min_length=1)
    place: Place = Field(alias="gridPos")


class Current(Strict):
    text: str | list[str]
    value: str | list[str]


class DatasourceVariable(Strict):
    type: Literal["datasource"]
    name: Literal["datasource"]
    label: str
    query: Literal["prometheus"]
    hide: Literal[2]
    current: Current


class LabelQuery(Strict):
    kind: Literal[1] = Field(alias="qryType")
    query: str
    ref_id: str = Field(alias="refId")


class QueryVariable(Strict):
    type: Literal["query"]
    name: str
    label: str
    datasource: Source
    query: LabelQuery
    refresh: Literal[1, 2]
    sort: int
    multi: bool
    include_all: Literal[True] = Field(alias="includeAll")
    all_value: Literal[".*"] = Field(alias="allValue")
    current: Current


class Templating(Strict):
    list: list[DatasourceVariable | QueryVariable]


class Time(Strict):
    since: str = Field(alias="from", pattern=r"^now-\d+[hd]$")
    to: Literal["now"]


class Annotations(Strict):
    list: list[None]


class Link(Strict):
    type: Literal["dashboards"]
    title: str
    tags: list[str]
    as_dropdown: bool = Field(alias="asDropdown")
    include_vars: bool = Field(alias="includeVars")
    keep_time: bool = Field(alias="keepTime")
    target_blank: bool = Field(alias="targetBlank")
    icon: str
    tooltip: str
    url: str


class Dashboard(Strict):
    uid: str = Field(pattern=r"^[a-z-]{1,40}$")
    title: str = Field(min_length=1)
    description: str = Field(min_length=10)
    tags: list[str]
    schema_version: Literal[41] = Field(alias="schemaVersion")
    version: int
    editable: bool
    tooltip: Literal[0, 1, 2] = Field(alias="graphTooltip")
    refresh: str = Field(pattern=r"^\d+[sm]$")
    time: Time
    timezone: Literal["browser"]
    annotations: Annotations
    links: list[Link]
    templating: Templating
    rows: list[Row | Panel] = Field(alias="panels")

    @property
    def panels(self) -> list[Panel]:
        """All but the headlines."""
        return [panel for panel in self.rows if isinstance(panel, Panel)]

    @property
    def variables(self) -> set[str]:
        """What the user may choose."""
        return {variable.name for variable in self.templating.list} - {"datasource"}
