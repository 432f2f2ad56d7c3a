"""Metrics as text: what a run tells is written down once, when it changes, and a scrape joins what is there.

prometheus_client writes 200 runs in 0.3 s; this does in a few milliseconds, and says the same.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evolution.metrics.families import FAMILIES, RUN, Family
from evolution.metrics.run_samples import Sample

OF_RUNS = tuple(family for family in FAMILIES if family.scope in ("Run", "Stage", "Round"))
"""The metrics that are told run by run."""


class RunMetrics(NamedTuple):
    """What one run tells."""

    namespace: str
    run: str
    samples: tuple[Sample, ...]


RunText = Mapping[str, str]
"""The lines of one run, by name of the metric."""


class RunCollector(Collector):
    """The metrics of runs for a registry of prometheus_client: simple, and fast enough for a few runs."""

    def __init__(self, runs: Callable[[], Iterable[RunMetrics]]) -> None:
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        runs = list(self._runs())
        for family in OF_RUNS:
            make = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
            metric = make(family.name, family.help, labels=family.labels)
            for namespace, run, samples in runs:
                for sample in samples:
                    if sample.family is family:
                        metric.add_metric((namespace, run, *sample.labels), sample.value)
            if metric.samples:
                yield metric


def run_text(metrics: RunMetrics) -> RunText:
    """The lines of one run."""
    start = f'{{{RUN[0]}="{_escaped(metrics.namespace)}",{RUN[1]}="{_escaped(metrics.run)}"'
    lines: dict[str, list[str]] = {}
    for family, labels, value in metrics.samples:
        line = f"{family.name}{start}{_end(family, labels)}{_number(value)}\n"
        lines.setdefault(family.name, []).append(line)
    return {name: "".join(of_family) for name, of_family in lines.items()}


def page_of_runs(texts: Iterable[RunText], *, openmetrics: bool = False) -> str:
    """The lines of all runs, grouped by metric, without the end mark of OpenMetrics."""
    runs = list(texts)
    parts: list[str] = []
    for family in OF_RUNS:
        lines = [text[family.name] for text in runs if family.name in text]
        if lines:
            parts.append(_head(family, openmetrics=openmetrics))
            parts += lines
    return "".join(parts)


@lru_cache
def _head(family: Family, *, openmetrics: bool) -> str:
    name = family.name.removesuffix("_total") if openmetrics else family.name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n"


@lru_cache(maxsize=4096)
def _end(family: Family, labels: tuple[str, ...]) -> str:
    """The labels after namespace and run. Nearly all runs have the same ones."""
    names = family.labels[len(RUN) :]
    return "".join(f',{name}="{_escaped(value)}"' for name, value in zip(names, labels, strict=True)) + "} "


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
