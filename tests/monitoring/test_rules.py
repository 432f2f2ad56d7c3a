"""The rules are what Prometheus accepts, do what their unit tests say, and ask for what is served."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from monitoring.rule_files import ALERTS, EVERY_RULE, MONITORING, NAMES, RECORDED, RULES, groups, plain_rules
from monitoring.scenario.cast import NOTES
from monitoring.scenario.story import moment
from monitoring.served import unknown
from prometheus_server import StartPrometheus
from pydantic import BaseModel, ConfigDict, Field, model_validator

from evolution.plan.dispatch import batches
from evolution_operator.jobsets import jobset_name

pytestmark = pytest.mark.prometheus

SEVERITIES = {"critical", "warning", "info"}
CASES = {path.stem: yaml.safe_load(path.read_text())["tests"] for path in (MONITORING / "tests").glob("*.yaml")}

Duration = Annotated[str, Field(pattern=r"^([0-9]+(ms|[smhdwy]))+$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Rule(Strict):
    """As the Prometheus Operator defines it."""

    alert: str = ""
    record: Annotated[str, Field(pattern=r"^([a-z0-9_]+:[a-z0-9_]+:[a-z0-9_]+)?$")] = ""
    expr: str
    for_: Annotated[Duration, Field(alias="for")] = "0s"
    keep_firing_for: Duration = "0s"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_of_both(self) -> "Rule":
        if bool(self.alert) == bool(self.record):
            raise ValueError("either alert or record")
        return self


class Group(Strict):
    name: Annotated[str, Field(min_length=1)]
    interval: Duration = "1m"
    rules: list[Rule]


class Spec(Strict):
    groups: Annotated[list[Group], Field(min_length=1)]


class Metadata(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]


class PrometheusRule(Strict):
    apiVersion: Annotated[str, Field(pattern="^monitoring.coreos.com/v1$")]  # noqa: N815 - as in the file
    kind: Annotated[str, Field(pattern="^PrometheusRule$")]
    metadata: Metadata
    spec: Spec


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_rule_file_is_a_prometheus_rule(path: Path) -> None:
    PrometheusRule.model_validate(yaml.safe_load(path.read_text()))


def test_every_alert_has_a_file_of_its_name_and_groups_have_names_of_their_own() -> None:
    assert {path.stem for path in RULES} == {*NAMES, "recording"}
    assert len(NAMES) == len(set(NAMES))
    assert all([group["name"] for group in groups(path)] == [path.stem] for path in RULES if path.stem in NAMES)
    names = [yaml.safe_load(path.read_text())["metadata"]["name"] for path in RULES]
    assert len(names) == len(set(names))


def test_promtool_finds_nothing_to_complain_of(promtool: Path, tmp_path: Path) -> None:
    told(promtool, "check", "rules", "--lint=all", "--lint-fatal", *plain_rules(tmp_path))


def test_every_case_comes_out_as_written(promtool: Path, tmp_path: Path) -> None:
    plain_rules(tmp_path / "rules")
    cases = Path(shutil.copytree(MONITORING / "tests", tmp_path / "tests"))
    told(promtool, "test", "rules", *sorted(cases.glob("*.yaml")))


@pytest.mark.parametrize("alert", NAMES)
def test_every_alert_has_a_case_where_it_fires_and_one_where_it_is_silent(alert: str) -> None:
    alone = [[bool(t["exp_alerts"]) for t in case.get("alert_rule_test", ())] for case in CASES.get(alert, ())]
    assert any(any(fires) for fires in alone), "no case where it fires"
    assert any(fires and not any(fires) for fires in alone), "no case where it is always silent"
    tested = {t["alertname"] for case in CASES[alert] for t in case.get("alert_rule_test", ())}
    assert tested == {alert}


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_figure_has_a_value_computed_by_hand(name: str) -> None:
    tests = [test for cases in CASES.values() for case in cases for test in case.get("promql_expr_test", ())]
    assert any(re.match(rf"{name}\b", test["expr"]) and test["exp_samples"] for test in tests)


def test_pods_of_jobsets_are_counted_by_the_names_that_the_operator_gives() -> None:
    (counted,) = (rule["expr"] for rule in EVERY_RULE if rule.get("record") == "namespace:kube_evolution_gpus:sum")
    (names,) = re.findall(r'owner_kind="JobSet", owner_name=~"([^"]+)"', counted)
    graph = NOTES.graph(moment("25:30"))
    (batch,) = batches(graph, [stage for stage in graph.stages if stage.id == "r1-train"], "Stage", ())
    assert re.fullmatch(names, jobset_name("notes", batch))
    assert not re.fullmatch(names, "bert")


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_every_alert_says_how_bad_it_is_what_is_the_matter_and_where_there_is_help(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in SEVERITIES
    told_ = rule["annotations"]
    assert set(told_) == {"summary", "description", "runbook_url"}
    assert told_["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert all(told_[part].endswith(".") for part in ("summary", "description"))


def test_kustomize_applies_all_rules_and_dashboards(kubectl: Path) -> None:
    objects = list(yaml.safe_load_all(told(kubectl, "kustomize", MONITORING)))
    rules = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "PrometheusRule"}
    assert rules == {
        body["metadata"]["name"]: body["spec"] for body in (yaml.safe_load(path.read_text()) for path in RULES)
    }
    dashboards = [o for o in objects if o["kind"] == "ConfigMap"]
    assert all(o["metadata"]["labels"]["grafana_dashboard"] == "1" for o in dashboards)
    files = sorted((MONITORING / "dashboards").glob("*.json"))
    assert [o["data"] for o in dashboards] == [{f.name: f.read_text()} for f in files]
    assert len(objects) == len(rules) + len(dashboards)


def test_rules_name_only_what_is_served(start_prometheus: StartPrometheus) -> None:
    prometheus = start_prometheus([])
    assert [
        f"{rule.get('alert') or rule['record']}: {wrong}"
        for rule in EVERY_RULE
        for selector in prometheus.selectors(rule["expr"])
        if selector.metric not in RECORDED
        for wrong in unknown(selector.metric, selector.labels)
    ] == []


def told(program: Path, *arguments: object) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
