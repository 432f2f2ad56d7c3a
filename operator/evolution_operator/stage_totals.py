"""Counters of stages summed over the runs of a namespace, for installations with too many runs to show each.

A sum over the runs that exist would fall when one is deleted. So these are counters of this process, which grow by
what the runs' ledgers have grown by.
"""

from collections.abc import Iterable

from evolution.metrics.exposition import RunMetrics, RunText, run_text
from evolution.metrics.families import Family
from evolution.metrics.run_samples import Sample
from evolution_operator.records import RunKey

_Series = tuple[Family, tuple[str, ...]]


class StageTotals:
    def __init__(self) -> None:
        self._last: dict[RunKey, dict[_Series, float]] = {}
        self._totals: dict[str, dict[_Series, float]] = {}

    def add(self, key: RunKey, samples: Iterable[Sample], *, new: bool) -> None:
        """Count what is new in a run's counters; of a run that is older than this process, from now on."""
        now = {(sample.family, sample.labels): sample.value for sample in samples}
        before = self._last.get(key, {} if new else now)
        totals = self._totals.setdefault(key.namespace, {})
        for series, value in now.items():
            earlier = before.get(series, 0)
            totals[series] = totals.get(series, 0) + (value - earlier if value >= earlier else value)
        self._last[key] = now

    def forget(self, key: RunKey) -> None:
        """The run is gone; what it has spent stays counted."""
        self._last.pop(key, None)

    def texts(self) -> list[RunText]:
        """Of every namespace, with an empty name of the run."""
        return [run_text(RunMetrics(namespace, "", _samples(totals))) for namespace, totals in self._totals.items()]


def _samples(totals: dict[_Series, float]) -> tuple[Sample, ...]:
    return tuple(Sample(family, labels, round(value, 3)) for (family, labels), value in totals.items())
