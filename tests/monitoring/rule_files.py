"""The rules of `monitoring/rules` as Prometheus itself reads them: what a PrometheusRule has in `spec`."""

from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = tuple(sorted((MONITORING / "rules").glob("*.yaml")))


def groups(path: Path) -> list[dict[str, Any]]:
    """Of one PrometheusRule."""
    return list(yaml.safe_load(path.read_text())["spec"]["groups"])


EVERY_RULE = [rule for path in RULES for group in groups(path) for rule in group["rules"]]
ALERTS = [rule for rule in EVERY_RULE if "alert" in rule]
NAMES = [rule["alert"] for rule in ALERTS]
RECORDED = [rule["record"] for rule in EVERY_RULE if "record" in rule]


def plain_rules(folder: Path) -> list[Path]:
    """One rule file, of the same name, for each PrometheusRule."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [folder / path.name for path in RULES]
    for path, written in zip(RULES, plain, strict=True):
        written.write_text(yaml.safe_dump({"groups": groups(path)}))
    return plain
