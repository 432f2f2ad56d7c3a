"""Every expression of rules and dashboards, asked of a real Prometheus that has scraped a day of five runs, says what
one works out by hand. `scenario/cast.py` is that day; what it must come to is in `scenario/answers_of_*.py`.

The counters of runs are at 0 when they are first scraped, within the windows of six hours and a day, and the last
scrape is at the moment of the question: so `increase` is exact, and no tolerance is needed.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from monitoring.dashboard_files import panels
from monitoring.rule_files import EVERY_RULE
from monitoring.scenario.answers import Answer, Panel
from monitoring.scenario.answers_of_fleet import FLEET
from monitoring.scenario.answers_of_rules import RULES
from monitoring.scenario.answers_of_run import RUN
from monitoring.scenario.recording import backfill, backfill_recorded, scraped
from monitoring.scenario.story import moment
from prometheus_server import PrometheusServer, Sample, prometheus_server

pytestmark = [pytest.mark.prometheus, pytest.mark.slow]

RULE_EXPRESSIONS = {rule.get("alert") or rule["record"]: rule["expr"] for rule in EVERY_RULE}
PANEL_EXPRESSIONS = {
    name: {
        Panel(panel["title"], target["refId"]): target["expr"] for panel in panels(name) for target in panel["targets"]
    }
    for name in ("fleet", "run")
}
SCRAPED_EVERY = {"$__range": "86400s", "$__rate_interval": "1200s"}
"""As Grafana fills them in for a day and a Prometheus that scrapes every five minutes."""
EXACT = 1e-9
"""Share of a value: more than that is no rounding."""


@pytest.fixture(scope="module")
def prometheus(
    prometheus_program: Path, promtool: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusServer]:
    folder = tmp_path_factory.mktemp("scenario")
    backfill(promtool, scraped(), folder)
    backfill_recorded(prometheus_program, promtool, [rule for rule in EVERY_RULE if "record" in rule], folder)
    with prometheus_server(prometheus_program, folder, []) as server:
        yield server


def test_every_expression_has_an_answer_and_every_answer_an_expression() -> None:
    assert set(RULES) == set(RULE_EXPRESSIONS)
    assert set(FLEET) == set(PANEL_EXPRESSIONS["fleet"])
    assert set(RUN) == set(PANEL_EXPRESSIONS["run"])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_what_one_works_out(name: str, prometheus: PrometheusServer) -> None:
    for answer in RULES[name]:
        assert_says(prometheus, RULE_EXPRESSIONS[name], answer)


@pytest.mark.parametrize("panel", FLEET, ids=" ".join)
def test_a_panel_of_all_runs_says_what_one_works_out(panel: Panel, prometheus: PrometheusServer) -> None:
    expression = filled(PANEL_EXPRESSIONS["fleet"][panel], {"$namespace": ".*"})
    assert_says(prometheus, expression, FLEET[panel])


@pytest.mark.parametrize("panel", RUN, ids=" ".join)
def test_a_panel_of_one_run_says_what_one_works_out(panel: Panel, prometheus: PrometheusServer) -> None:
    answer = RUN[panel]
    expression = filled(PANEL_EXPRESSIONS["run"][panel], {"$namespace": "team-legal", "$run": answer.run})
    assert_says(prometheus, expression, answer)


def filled(expression: str, chosen: Mapping[str, str]) -> str:
    for variable, value in {**SCRAPED_EVERY, **chosen}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def assert_says(prometheus: PrometheusServer, expression: str, answer: Answer) -> None:
    samples = prometheus.query(expression, moment(answer.at).timestamp())
    said = {row(sample): sample.value for sample in samples}
    assert len(said) == len(samples), f"rows with the same labels: {samples}"
    named = {name: said.pop(name, None) for name in answer.rows}
    wrong = {
        name: f"{value}, not {answer.rows[name]}" for name, value in named.items() if not same(value, answer.rows[name])
    }
    assert not wrong, f"at {answer.at}: {wrong}; and {said}: {expression}"
    assert len(said) == answer.rest.rows, f"other rows than were thought of: {said}"
    assert all(same(value, answer.rest.value) for value in said.values()), said


def row(sample: Sample) -> str:
    return " ".join(value for label, value in sorted(sample.labels.items()) if label != "__name__")


def same(value: float | None, wanted: float) -> bool:
    if value is None:
        return False
    return math.isnan(value) if math.isnan(wanted) else math.isclose(value, wanted, rel_tol=EXACT, abs_tol=EXACT)
