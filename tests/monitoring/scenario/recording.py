"""The scenario as a Prometheus that has scraped it all along would have it."""

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from monitoring.scenario import neighbours
from monitoring.scenario.installation import NAMESPACE, PROCESSES, STEP, Process, Scene
from monitoring.scenario.story import moment
from prometheus_server import PrometheusServer, prometheus_server

BEGIN, END = "00:00", "26:00"
POD_MONITOR = Path(__file__).parents[3] / "deploy" / "monitoring" / "podmonitor.yaml"
(ENDPOINT,) = yaml.safe_load(POD_MONITOR.read_text())["spec"]["podMetricsEndpoints"]
assert ENDPOINT["honorLabels"] is True
RELABELLED = [(rule["targetLabel"], re.compile(rule["regex"])) for rule in ENDPOINT["metricRelabelings"]]
"""Labels of the target that metrics with such names do not get."""
_LINE = re.compile(r"(?P<name>[^{ ]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


def scraped() -> Iterator[str]:
    """OpenMetrics with times, of the operator and of its neighbours."""
    told: set[str] = set()
    for process in PROCESSES:
        for now, page in Scene(process).pages():
            for line in page.splitlines():
                if not line.startswith("#"):
                    series, value = _of_target(line, process)
                    if (sample := f"{series} {now:%H:%M %d}") not in told:  # Prometheus takes the first one only
                        told.add(sample)
                        yield f"{series} {value} {now.timestamp():.3f}\n"
    now = moment(BEGIN)
    while now <= moment(END):
        for name, labels, value in neighbours.told(now):
            yield line_of(name, {**labels, "job": "kube-state-metrics"}, value, now.timestamp())
        now += STEP


def line_of(name: str, labels: Mapping[str, str], value: float, at: float) -> str:
    written = ",".join(f'{label}="{said}"' for label, said in labels.items())
    return f"{name}{{{written}}} {value!r} {at:.3f}\n"


def backfill(promtool: Path, lines: Iterable[str], folder: Path) -> None:
    """Blocks of these samples in the data folder of a Prometheus that is not running."""
    text = folder / "samples.txt"
    with text.open("w") as file:
        file.writelines(lines)
        file.write("# EOF\n")
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text.unlink()


def backfill_recorded(program: Path, promtool: Path, rules: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """The series of recording rules over the whole scenario, those first that others are made of."""
    left = {rule["record"]: rule["expr"] for rule in rules}
    while left:
        ready = {name: expr for name, expr in left.items() if not any(other in expr for other in left)}
        assert ready, f"recording rules that need each other: {sorted(left)}"
        with prometheus_server(program, folder, []) as server:
            lines = [line for name, expr in ready.items() for line in _recorded(server, name, expr)]
        backfill(promtool, lines, folder)
        left = {name: expr for name, expr in left.items() if name not in ready}


def _recorded(server: PrometheusServer, name: str, expression: str) -> Iterator[str]:
    begin, end = (moment(clock).timestamp() for clock in (BEGIN, END))
    for series in server.query_range(expression, begin, end, STEP.total_seconds()):
        labels = {label: said for label, said in series.labels.items() if label != "__name__"}
        for at, value in series.points:
            yield line_of(name, labels, value, at)


def _of_target(line: str, process: Process) -> tuple[str, str]:
    """A series with the labels of the scrape's target, as the PodMonitor makes them, and its value."""
    found = _LINE.fullmatch(line)
    assert found, line
    name, own = found["name"], found["labels"] or ""
    target = {"job": "evolution-operator", "instance": process.instance, "pod": process.pod}
    for label, names in RELABELLED:
        if names.fullmatch(name):
            del target[label]
    if 'namespace="' not in own:  # honorLabels: what the operator serves itself wins
        target["namespace"] = NAMESPACE
    more = ",".join(f'{label}="{said}"' for label, said in target.items())
    return f"{name}{{{','.join(filter(None, (own, more)))}}}", found["value"]
