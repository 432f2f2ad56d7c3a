"""Every alert has a page that helps, whose queries somebody woken up at night can copy; commands: `tests/docs`."""

import re
from pathlib import Path

import pytest
from monitoring.rule_files import NAMES, RECORDED
from monitoring.served import unknown
from prometheus_server import StartPrometheus

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {*NAMES, "README"}
    listed = re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text())
    assert sorted(listed) == sorted(NAMES)


@pytest.mark.parametrize("alert", NAMES)
def test_a_runbook_has_the_sections_that_people_look_for(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert all(part.strip() for part in re.split(r"^## .+$", text, flags=re.MULTILINE))


@pytest.mark.prometheus
def test_queries_of_runbooks_name_only_what_is_served(start_prometheus: StartPrometheus) -> None:
    prometheus = start_prometheus([])
    fenced = {
        page.stem: re.findall(r"^```promql\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        for page in RUNBOOKS.glob("*.md")
    }
    queries = [(name, line) for name, blocks in fenced.items() for block in blocks for line in block.splitlines()]
    assert len(queries) > 10
    assert [
        f"{name}: {wrong}"
        for name, query in queries
        for selector in prometheus.selectors(query)
        if selector.metric not in RECORDED
        for wrong in unknown(selector.metric, selector.labels)
    ] == []
