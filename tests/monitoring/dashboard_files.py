"""The dashboards as Grafana reads them, and what they ask Prometheus."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parents[2] / "monitoring" / "dashboards"
NAMES = ("fleet", "run")


@dataclass(frozen=True)
class Query:
    """One question of a panel. As text it names both."""

    dashboard: str
    panel: str
    letter: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.letter}"

    def asked(self) -> str:
        """As Grafana sends it, with everything chosen and a time range of a day."""
        values = {"$namespace": "team-a", "$run": "manuals", "$__range": "24h", "$__rate_interval": "5m"}
        if self.dashboard == "fleet":
            values["$namespace"] = ".*"
        sent = self.expression
        for variable, value in values.items():
            sent = sent.replace(variable, value)
        return sent


def opened(name: str) -> dict[str, Any]:
    return dict(json.loads((DASHBOARDS / f"{name}.json").read_text()))


def panels(name: str) -> list[dict[str, Any]]:
    """All that are no headings, those of closed rows too."""
    found = [panel for top in opened(name)["panels"] for panel in (top, *top.get("panels", ()))]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    for name in NAMES:
        for panel in panels(name):
            for target in panel["targets"]:
                yield Query(name, panel["title"], target["refId"], target["expr"])


QUERIES = tuple(queries())
