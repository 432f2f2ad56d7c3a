"""Every alert has a page that helps, whose commands and queries somebody woken up at night can copy."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from monitoring.rule_files import NAMES, RECORDED
from monitoring.served import unknown
from prometheus_server import StartPrometheus

from evolution.cli.main import app

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
PROGRAM = typer.main.get_command(app)
COMMANDS = sorted(
    {
        (page.stem, command)
        for page in RUNBOOKS.glob("*.md")
        for command in re.findall(r"(?:^|`)(evolve [^`\n|]+)", page.read_text(), re.MULTILINE)
    }
)


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


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda text: text)
def test_a_command_of_a_runbook_exists_with_its_options(page: str, command: str) -> None:
    _, name, *arguments = shlex.split(command)
    known = PROGRAM.commands.get(name)
    assert known is not None, f"{page}: no command {name}"
    options = {option for parameter in known.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {argument for argument in arguments if argument.startswith("-")} <= options


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
