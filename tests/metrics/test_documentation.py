"""`docs/metrics.md` has every metric as the table says, and no other."""

import re
from pathlib import Path

from evolution.metrics.families import FAMILIES, LABEL_VALUES, Family, label_values

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
    return f"| `{family.name}` | {family.type} | {labels} | {family.help} |"


def values(family: Family, label: str) -> str:
    return ", ".join(f"`{value}`" for value in label_values(family, label))


def test_the_page_has_every_metric_in_the_order_of_the_table() -> None:
    written = [line for line in PAGE.read_text().splitlines() if line.startswith("| `evolution_")]
    assert written == [row(family) for family in FAMILIES]


def test_the_page_names_no_metric_that_is_not_served() -> None:
    served = {name for family in FAMILIES for name in (family.name, *family.series)}
    recorded = {"evolution_trainer", "evolution_operator"}
    assert set(re.findall(r"\bevolution_\w*", PAGE.read_text())) - served <= recorded


def test_the_page_says_what_labels_can_be() -> None:
    page = PAGE.read_text()
    for label, allowed in LABEL_VALUES.items():
        assert f"| `{label}` | {', '.join(f'`{value}`' for value in allowed)} |" in page, label
    for family in FAMILIES:
        for label in family.labels:
            if label not in LABEL_VALUES and label_values(family, label):
                assert f"| `{label}` of `{family.name}` | {values(family, label)} |" in page, (family.name, label)
