"""Argo CD and Flux say of every recorded run what its owner would say."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from gitops.runs import HEALTH, RECORDED, SCHEDULES, recorded
from tools.build import Unavailable, binary

from gitops import argocd, flux

EACH = pytest.mark.parametrize("name", [*HEALTH, *SCHEDULES])


@pytest.fixture(autouse=True, scope="module")
def flux_program() -> None:
    try:
        binary("flux-health")
    except Unavailable as error:
        pytest.skip(str(error))


def test_every_record_has_its_health_and_there_are_enough() -> None:
    assert {file.stem for file in RECORDED.iterdir()} == {*HEALTH, *SCHEDULES}
    assert len(HEALTH) >= 12
    assert {health.argo for health in HEALTH.values()} == {"Healthy", "Progressing", "Suspended", "Degraded"}


@EACH
def test_argo_cd_sees_its_health_and_says_why(name: str) -> None:
    status, message = argocd.health(recorded(name))
    expected = (HEALTH | SCHEDULES)[name]
    assert status == expected.argo
    assert expected.told in message


def test_flux_sees_by_its_generic_rules_what_goes_on() -> None:
    expected = {name: health.kstatus or health.flux for name, health in (HEALTH | SCHEDULES).items()}
    states = flux.states([recorded(name) for name in expected])
    assert dict(zip(expected, states, strict=True)) == expected


@pytest.mark.parametrize(("kustomization", "wanted"), [("manuals", "flux"), ("manuals-staging", "going")])
def test_flux_sees_by_the_expressions_of_the_example_what_they_ask_for(kustomization: str, wanted: str) -> None:
    states = flux.states([recorded(name) for name in HEALTH], flux.expressions(kustomization, "EvolutionRun"))
    assert dict(zip(HEALTH, states, strict=True)) == {name: getattr(health, wanted) for name, health in HEALTH.items()}


def test_the_page_about_gitops_shows_the_expressions_of_the_example() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gitops.md").read_text(encoding="utf-8")
    shown = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    examples = [{key: spec[key] for key in shown[0]} for spec in flux.kustomizations().values()]
    assert shown == examples


def test_the_rules_come_from_the_code_of_flux() -> None:
    """An expression that it cannot parse is refused by it, and so not by us."""
    answer = subprocess.run(
        [binary("flux-health")],
        input='{"objects": [{"apiVersion": "v1", "kind": "X"}], "expressions": {"current": "a ="}}',
        capture_output=True,
        text=True,
        check=False,
    )
    assert "failed to parse the expression Current" in answer.stderr
