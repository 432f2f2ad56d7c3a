"""What the operator serves is the table of metrics, which documentation, rules and dashboards are checked against."""

import re

from monitoring.scenario.installation import PROCESSES, Scene

from evolution.metrics.families import FAMILIES, label_values


def test_an_operator_with_runs_serves_every_metric_of_the_table_and_no_other() -> None:
    *_, (_, page) = Scene(PROCESSES[-1]).pages()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    assert types == {family.name: family.type for family in FAMILIES}
    series = set(re.findall(r"^(evolution_\w+)", page, re.MULTILINE))
    assert series == {name for family in FAMILIES for name in family.series}


def test_every_series_has_the_labels_of_the_table_with_values_of_the_table() -> None:
    *_, (_, page) = Scene(PROCESSES[-1]).pages()
    by_series = {name: family for family in FAMILIES for name in family.series}
    for name, labels in re.findall(r"^(evolution_\w+)(?:\{(.*)\})? ", page, re.MULTILINE):
        family, said = by_series[name], dict(re.findall(r'(\w+)="([^"]*)"', labels))
        said.pop("le", None)
        assert set(said) == set(family.labels), f"{name}{{{labels}}}"
        for label, value in said.items():
            known = label_values(family, label)
            assert not known or value in known, f"{name}{{{labels}}}"
