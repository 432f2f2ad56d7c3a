"""Writes the dashboards as Grafana reads them: `python monitoring/dashboards/write.py FOLDER`."""

import sys
from pathlib import Path

import fleet
import run
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import RowPanel


def written(dashboard: Dashboard) -> str:
    """Its JSON. Panels are numbered in the order in which they stand."""
    built = dashboard.build()
    shown = [panel for top in built.panels or [] for panel in (top, *(top.panels if isinstance(top, RowPanel) else ()))]
    for number, panel in enumerate(shown, start=1):
        panel.id_val = number
    return JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, dashboard in {"fleet": fleet.build(), "run": run.build()}.items():
        (folder / f"{name}.json").write_text(written(dashboard), "utf-8")
