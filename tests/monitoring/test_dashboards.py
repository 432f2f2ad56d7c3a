"""The dashboards are as their source says, explain themselves, and ask only for what there is."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring.dashboard_files import DASHBOARDS, NAMES, QUERIES, opened, panels
from monitoring.rule_files import RECORDED
from monitoring.served import unknown
from prometheus_server import StartPrometheus

from evolution.metrics.families import FAMILIES

PAGE = (DASHBOARDS.parents[1] / "docs" / "grafana.md").read_text()
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOOSES = {
    "fleet": {'namespace=~"$namespace"'},
    "run": {'namespace="$namespace"', 'run="$run"'},
}
"""What every question about runs says."""


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


SELECTOR = re.compile(r"(?<![\w:])((?:evolution_|namespace:|DCGM_)[\w:]+)(?:\{([^}]*)\})?")
PANELS = [pytest.param(panel, id=f"{name}: {panel['title']}") for name in NAMES for panel in panels(name)]


def test_the_files_are_what_the_source_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DASHBOARDS / "write.py"), str(tmp_path)], check=True)
    for name in NAMES:
        fresh, kept = ((folder / f"{name}.json").read_text() for folder in (tmp_path, DASHBOARDS))
        assert fresh == kept, f"{name}.json is out of date: make dashboards"


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_says_what_it_means_in_which_unit_and_that_there_is_nothing(panel: dict[str, Any]) -> None:
    shown = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith(".")
    assert shown["unit"]
    assert shown["noValue"]
    assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [SOURCE] * (
        len(panel["targets"]) + 1
    )
    assert panel["targets"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_is_imported_as_it_is(name: str) -> None:
    dashboard = opened(name)
    assert dashboard["uid"] == f"evolution-{name}"
    assert dashboard["tags"] == ["evolution"]
    assert dashboard["time"] == {"from": "now-24h", "to": "now"}
    variables = dashboard["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "namespace", *(["run"] * (name == "run"))]
    assert variables[0]["query"] == "prometheus"
    assert all(variable["datasource"] == SOURCE for variable in variables[1:])
    assert "__inputs" not in dashboard


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_numbers_of_their_own_and_do_not_cover_each_other(name: str) -> None:
    everything = [panel for top in opened(name)["panels"] for panel in (top, *top.get("panels", ()))]
    assert len({panel["id"] for panel in everything}) == len(everything)
    covered: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & covered, f"{panel['title']} covers another panel"
        covered |= cells


def test_links_lead_to_dashboards_that_exist_and_say_what_is_chosen_there() -> None:
    variables = {opened(name)["uid"]: {v["name"] for v in opened(name)["templating"]["list"]} for name in NAMES}
    links = [text for name in NAMES for text in strings(opened(name)) if text.startswith("/d/")]
    assert {re.split(r"[/?]", link)[2] for link in links} == set(variables)
    for link in links:
        where = re.split(r"[/?]", link)[2]
        assert set(re.findall(r"var-(\w+)=", link)) <= variables[where]
        assert set(re.findall(r"\$\{(\w+):queryparam\}", link)) <= variables[where]
    assert any("var-namespace=" in link and "var-run=" in link for link in links)


def test_every_question_about_runs_is_about_those_that_were_chosen() -> None:
    of_operator = {series for family in FAMILIES for series in family.series if "namespace" not in family.labels}
    for query in QUERIES:
        for metric, matchers in SELECTOR.findall(query.expression):
            if metric not in of_operator:
                assert CHOOSES[query.dashboard] <= set(matchers.split(", ")), f"{query}: {metric}{{{matchers}}}"


def test_no_name_of_a_namespace_or_run_is_in_a_question() -> None:
    chosen = re.compile(r'\b(?:namespace|run)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
    for query in QUERIES:
        assert set(chosen.findall(query.expression)) <= {"$namespace", "$run"}, str(query)


def test_counters_are_summed_over_runs_only_once_their_growth_is_known() -> None:
    counters = [series for family in FAMILIES if family.type != "gauge" for series in family.series]
    for query in QUERIES:
        for counter in counters:
            for before in re.findall(rf"([\w ,()]{{0,60}})\b{counter}\b", query.expression):
                if query.dashboard == "fleet":
                    assert re.search(r"(increase|rate)\($", before), f"{query}: {before}{counter}"
                else:
                    assert re.search(r"((increase|rate)|max by \([a-z, ]+\) )\($", before), (
                        f"{query}: {before}{counter}"
                    )


def test_there_is_a_panel_for_everything_that_is_served() -> None:
    asked = " ".join(query.expression for query in QUERIES)
    assert [family.name for family in FAMILIES if not re.search(rf"\b{family.name}(_bucket|_count)?\b", asked)] == []


@pytest.mark.prometheus
def test_questions_name_only_what_is_served(start_prometheus: StartPrometheus) -> None:
    prometheus = start_prometheus([])

    assert [
        f"{query}: {wrong}"
        for query in QUERIES
        for selector in prometheus.selectors(query.asked())
        if selector.metric not in RECORDED
        for wrong in unknown(selector.metric, selector.labels)
    ] == []


@pytest.mark.controlplane
def test_the_sidecar_of_grafana_finds_each_dashboard_in_a_config_map(kubectl: Path) -> None:
    made = subprocess.run([kubectl, "kustomize", str(DASHBOARDS)], capture_output=True, check=True).stdout
    maps = list(yaml.safe_load_all(made))
    assert {part["kind"] for part in maps} == {"ConfigMap"}
    assert [part["metadata"]["labels"] for part in maps] == [{"grafana_dashboard": "1"}] * len(NAMES)
    found = {file: json.loads(text) for part in maps for file, text in part["data"].items()}
    assert found == {f"{name}.json": opened(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_lists_every_panel_in_its_row(name: str) -> None:
    found: list[list[str]] = []
    for panel in opened(name)["panels"]:
        if panel["type"] == "row":
            found.append([panel["title"].replace("$run", "the name of the run")])
        found[-1] += (
            [under["title"] for under in panel.get("panels", ())] if panel["type"] == "row" else [panel["title"]]
        )
    for row, *titles in found:
        assert f"| {row} | {', '.join(titles)} |" in PAGE


def test_the_documentation_leads_to_panels_that_exist() -> None:
    known = {panel["title"] for name in NAMES for panel in panels(name)}
    rows = {panel["title"] for name in NAMES for panel in opened(name)["panels"] if panel["type"] == "row"}
    questions = PAGE.partition("## Which panel")[2].partition("Every panel says")[0]
    assert set(re.findall(r"\*([A-Z][^*]+)\*", questions)) - known - rows == set()
