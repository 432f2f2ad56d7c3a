"""What both dashboards are made of: kinds of panels with one look, rows, links and variables.

A query is a pair in a dictionary: what names its series in the legend, and PromQL.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    FieldColor,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

AnyPanel = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel
Panel = TypeVar("Panel", stat.Panel, timeseries.Panel, bargauge.Panel, table.Panel)
Queries = Mapping[str, str]
Colours = Sequence[tuple[float, str]]
"""From which value on which colour holds; the first one from 0."""

FLEET, RUN = "evolution-fleet", "evolution-run"
"""Stable identifiers: links and bookmarks hold them."""

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GPU_HOURS = "suffix: GPU-h"
GPUS = "suffix: GPUs"
POINTS = "suffix: points"
"""A point is a hundredth of the score."""
TOKENS = "suffix: tokens"
BYTES = "bytes"
PER_SECOND = "reqps"
RATIO = "percentunit"
SECONDS = "s"
NUMBER = "none"
COUNT = "short"
"""Of many: with Mil and Bil."""
MONEY = "locale"
"""A plain number: the currency is a label, because the operator is told which it is."""

COLOURS = {
    "class": {
        "productive": "green",
        "cold_start_image": "light-blue",
        "cold_start_model": "blue",
        "io": "purple",
        "checkpoint": "light-purple",
        "wasted": "red",
        "idle": "yellow",
    },
    "phase": {
        "Pending": "yellow",
        "Queued": "light-orange",
        "Running": "blue",
        "Suspended": "text",
        "Complete": "green",
        "Failed": "red",
    },
    "state": {
        "Waiting": "green",
        "Running": "blue",
        "Suspended": "text",
        "Stalled": "red",
    },
    "result": {
        "succeeded": "green",
        "retryable": "orange",
        "permanent": "red",
        "preempted": "yellow",
        "lost": "dark-red",
        "stopped": "text",
        "kept": "green",
        "rejected": "orange",
    },
    "outcome": {"promoted": "green", "rejected": "orange"},
}
"""By label and value: each has one colour everywhere."""


def number(
    title: str,
    tells: str,
    queries: Queries,
    unit: str,
    *,
    width: int = 4,
    decimals: int | None = None,
    colours: Colours = (),
    height: int = 4,
    nothing: str = "nothing yet",
    name_only: bool = False,
) -> stat.Panel:
    """One figure, or a few with their names, as of the end of the time range. `name_only` shows no value."""
    panel = _described(stat.Panel(), title, tells, unit, decimals, nothing).height(height).span(width)
    panel = _asking(panel, queries, instant=True)
    named = BigValueTextMode.VALUE_AND_NAME if any(queries) else BigValueTextMode.VALUE
    return (
        panel.graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE if colours else BigValueColorMode.NONE)
        .text_mode(BigValueTextMode.NAME if name_only else named)
        .reduce_options(_last())
        .thresholds(_thresholds(colours))
    )


def graph(
    title: str,
    tells: str,
    queries: Queries,
    unit: str,
    *,
    width: int = 8,
    decimals: int | None = None,
    stacked: bool = False,
    highest: float | None = None,
    nothing: str = "nothing in this time range",
) -> timeseries.Panel:
    """Lines over time, or filled areas on top of each other."""
    panel = _described(timeseries.Panel(), title, tells, unit, decimals, nothing).height(8).span(width)
    panel = (
        _coloured(_asking(panel, queries, instant=False), queries)
        .min(0)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if highest is not None:
        panel = panel.max(highest)
    return (
        panel.color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )


def bars(
    title: str,
    tells: str,
    queries: Queries,
    unit: str,
    *,
    width: int = 8,
    decimals: int | None = None,
    highest: float | None = None,
    nothing: str = "nothing in this time range",
    opens_run: bool = False,
) -> bargauge.Panel:
    """One bar for each series, as of the end of the time range."""
    panel = _described(bargauge.Panel(), title, tells, unit, decimals, nothing).height(8).span(width)
    panel = _coloured(_asking(panel, queries, instant=True), queries).min(0)
    if highest is not None:
        panel = panel.max(highest)
    if opens_run:
        panel = panel.data_links([_link_to_run("${__field.labels.namespace}", "${__field.labels.run}")])
    return (
        panel.display_mode(BarGaugeDisplayMode.BASIC)
        .orientation(VizOrientation.HORIZONTAL)
        .show_unfilled(True)
        .min_viz_height(14)
        .reduce_options(_last())
        .color_scheme(FieldColor().mode(FieldColorModeId.FIXED).fixed_color("blue"))
        .thresholds(_thresholds(()))
    )


def matrix(title: str, tells: str, expression: str, unit: str, *, rows: str, columns: str, width: int) -> table.Panel:
    """A table of one query: a row for each value of one label, a column for each of another."""
    panel = _described(table.Panel(), title, tells, unit, 0, "no attempt has ended yet").height(8).span(width)
    fields = {"rowField": rows, "columnField": columns, "valueField": "Value"}
    return (
        _asking(panel, {"": expression}, instant=True, as_table=True)
        .show_header(True)
        .with_transformation(DataTransformerConfig("groupingToMatrix", options=fields))
    )


def facts(title: str, tells: str, expression: str, headings: Mapping[str, str]) -> table.Panel:
    """A line of labels. `headings` are what they are called."""
    panel = _described(table.Panel(), title, tells, NUMBER, None, "not shown then").height(4).span(24)
    options = {"excludeByName": {"Time": True, "Value": True}, "renameByName": dict(headings)}
    return (
        _asking(panel, {"": expression}, instant=True, as_table=True)
        .show_header(True)
        .with_transformation(DataTransformerConfig("organize", options=options))
    )


def list_of_runs(title: str, tells: str, columns: Sequence[tuple[str, str, str, int]]) -> table.Panel:
    """A row for each run that leads to its own dashboard. A column is a heading, PromQL, a unit and decimals."""
    panel = _described(table.Panel(), title, tells, NUMBER, None, "no runs are shown").height(10).span(24)
    letters = "ABCDEFGHIJKLMNOP"
    values = {f"Value #{letter}": heading for letter, (heading, *_) in zip(letters, columns, strict=False)}
    panel = _asking(panel, {str(i): query for i, (_, query, *_) in enumerate(columns)}, instant=True, as_table=True)
    panel = panel.with_transformation(DataTransformerConfig("merge", options={})).with_transformation(
        DataTransformerConfig(
            "organize",
            options={
                "excludeByName": {"Time": True, "Value #A": True},
                "indexByName": {name: i for i, name in enumerate(("namespace", "run", "phase", *values, "currency"))},
                "renameByName": {
                    "namespace": "Namespace",
                    "run": "Run",
                    "phase": "Phase",
                    "currency": "Currency",
                    **values,
                },
            },
        )
    )
    for heading, _, unit, decimals in columns[1:]:
        panel = panel.override_by_name(
            heading, [DynamicConfigValue("unit", unit), DynamicConfigValue("decimals", decimals)]
        )
    link = _link_to_run("${__data.fields.Namespace}", "${__data.fields.Run}").build()
    return panel.override_by_name("Run", [DynamicConfigValue("links", [link])]).show_header(True)


def add_row(made: Dashboard, title: str, panels: Sequence[AnyPanel]) -> None:
    """A heading with panels below it."""
    made.with_row(Row(title))
    for panel in panels:
        made.with_panel(panel)


def add_closed_row(made: Dashboard, title: str, panels: Sequence[AnyPanel]) -> None:
    """The same, but its queries are only sent once somebody opens it."""
    closed = Row(title)
    for panel in panels:
        closed.with_panel(panel)
    made.with_row(closed)


def dashboard(uid: str, title: str, description: str, link: DashboardLink) -> Dashboard:
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["evolution"])
        .time("now-24h", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(link)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )


def link_to(title: str, uid: str, *variables: str) -> DashboardLink:
    """The other dashboard, with the same data source, time range and `variables`."""
    kept = "&".join(f"${{{variable}:queryparam}}" for variable in ("datasource", *variables))
    made = DashboardLink(title).type(DashboardLinkType.LINK).icon("dashboard").tags([]).keep_time(True)
    return made.url(f"/d/{uid}?{kept}")


def chosen(name: str, label: str, query: str, *, several: bool) -> QueryVariable:
    """A variable whose values are those of a label within the time range, so that runs of the past can be chosen."""
    variable = (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    if not several:
        return variable
    everything = VariableOption(True, ["All"], ["$__all"])
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


def _described(panel: Panel, title: str, tells: str, unit: str, decimals: int | None, nothing: str) -> Panel:
    panel = panel.title(title).description(tells).datasource(SOURCE).unit(unit).no_value(nothing)
    return panel if decimals is None else panel.decimals(decimals)


def _asking(panel: Panel, queries: Queries, *, instant: bool, as_table: bool = False) -> Panel:
    for letter, (legend, expression) in zip("ABCDEFGHIJKLMNOP", queries.items(), strict=False):
        query = Dataquery().ref_id(letter).datasource(SOURCE).expr(expression)
        query = query.instant() if instant else query.range()
        panel = panel.with_target(query.format(PromQueryFormat.TABLE) if as_table else query.legend_format(legend))
    return panel


def _coloured(panel: Panel, queries: Queries) -> Panel:
    for label, colours in COLOURS.items():
        if f"{{{{{label}}}}}" in queries:
            for value, colour in colours.items():
                fixed = DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
                panel = panel.override_by_name(value, [fixed])
    return panel


def _thresholds(colours: Colours) -> ThresholdsConfig:
    steps = [Threshold(value or None, colour) for value, colour in colours or ((0, "green"),)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().values(False).calcs(["lastNotNull"]).fields("")


def _link_to_run(namespace: str, run: str) -> DashboardLink:
    url = f"/d/{RUN}?var-namespace={namespace}&var-run={run}&${{datasource:queryparam}}&${{__url_time_range}}"
    return DashboardLink("Open the run").url(url)
