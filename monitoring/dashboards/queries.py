"""Parts of PromQL that the dashboards share.

Counters first grow (`increase`), then are summed over runs: the other way round, a run that is deleted would look like
a reset. A share of nothing is no result, rather than not-a-number. Where a query multiplies or divides, both sides are
aggregated to the labels that they are matched on, so that labels of scraping do not matter.
"""

from dataclasses import dataclass

SETTLING = "6h"
"""Window of graphs: GPU-seconds are counted when an attempt ends, so that a shorter one would show bursts."""
RANGE = "$__range"
"""Window of single figures: what the user chose."""

PRODUCTIVE = 'class="productive"'
BADPUT = 'class!="productive"'
WASTED = 'class="wasted"'
COLD_START = 'class=~"cold_start_.+"'
BEST, BASELINE = 'kind="best"', 'kind="baseline"'
RUNNING = 'phase="Running"'
PROMOTED = 'outcome="promoted"'
KEPT = 'result="kept"'
GENERATING = 'stage="Generate"'
WRITTEN = 'direction=~"generated|trained"'


def share(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def quantile(q: float, buckets: str, by: str = "") -> str:
    """Of a histogram, by the labels that `by` names; nothing where nothing was observed."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (increase({buckets}))) >= 0"


def rate_of(metric: str, by: str) -> str:
    """Per second, for what the operator counts itself, all the time."""
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


@dataclass(frozen=True)
class Runs:
    """Queries about the runs that these label matchers choose."""

    namespace: str
    run: str = ""

    def metric(self, name: str, *matchers: str) -> str:
        return f"evolution_{name}{{{', '.join(filter(None, (self.namespace, self.run, *matchers)))}}}"

    def newest(self, name: str, *matchers: str) -> str:
        """A gauge of each run."""
        return f"max by (namespace, run) ({self.metric(name, *matchers)})"

    def grown(self, name: str, *matchers: str, by: str = "", window: str = RANGE) -> str:
        """By how much a counter grew, summed over everything but `by`."""
        grouped = f"sum by ({by}) " if by else "sum"
        return f"{grouped}(increase({self.metric(name, *matchers)}[{window}]))"

    def gpu_hours(self, *matchers: str, by: str = "", window: str = RANGE) -> str:
        """That were settled."""
        return f"{self.grown('stage_gpu_seconds_total', *matchers, by=by, window=window)} / 3600"

    def goodput(self, window: str = RANGE) -> str:
        return self.share_of_gpu_time(PRODUCTIVE, window=window)

    def share_of_gpu_time(self, matcher: str, by: str = "", window: str = RANGE) -> str:
        seconds = "stage_gpu_seconds_total"
        return share(self.grown(seconds, matcher, by=by, window=window), self.grown(seconds, by=by, window=window))

    @property
    def evaluated_rounds(self) -> str:
        """Of each run since it began."""
        return f"sum by (namespace, run) (max by (namespace, run, outcome) ({self.metric('run_rounds_total')}))"

    def promoted_rounds(self) -> str:
        """Share of the evaluated ones."""
        return share(self.grown("run_rounds_total", PROMOTED), self.grown("run_rounds_total"))

    def data_yield(self, by: str) -> str:
        """Share of the candidates that were kept."""
        samples = "stage_samples_total"
        return share(
            self.grown(samples, GENERATING, KEPT, by=by, window=SETTLING),
            self.grown(samples, GENERATING, by=by, window=SETTLING),
        )

    def token_rate(self) -> str:
        """Tokens generated or trained on for each productive GPU-second, by stage."""
        return share(
            self.grown("stage_tokens_total", WRITTEN, by="stage", window=SETTLING),
            self.grown("stage_gpu_seconds_total", PRODUCTIVE, by="stage", window=SETTLING),
        )

    @property
    def held_hours(self) -> str:
        """GPU-hours of each run since it began, attempts under way included."""
        return f"{self.newest('run_allocated_gpu_seconds')} / 3600"

    @property
    def gain(self) -> str:
        """Of each run: points, hundredths of the score, from before the first round to the best one."""
        best, baseline = self.newest("run_score_ratio", BEST), self.newest("run_score_ratio", BASELINE)
        return f"100 * ({best} - on (namespace, run) {baseline})"

    @property
    def gain_per_gpu_hour(self) -> str:
        return f"{self.gain} / on (namespace, run) ({self.held_hours} > 0)"

    @property
    def budget_used(self) -> str:
        held, budget = self.newest("run_allocated_gpu_seconds"), self.newest("run_budget_gpu_seconds")
        return f"{held} / on (namespace, run) ({budget} > 0)"

    @property
    def price(self) -> str:
        """Of one GPU-hour of each run that was shown in the time range, with the currency as a label.

        A run whose GPU class changed in the time range has the price of one of them.
        """
        info = self.metric("run_info")
        return (
            f"(topk by (namespace, run) (1, max by (namespace, run, gpu_class) (max_over_time({info}[{RANGE}])))"
            " * on (gpu_class) group_left (currency) max by (gpu_class, currency) (evolution_gpu_hourly_price))"
        )

    @property
    def cost(self) -> str:
        """Of each run since it began."""
        return f"{self.held_hours} * on (namespace, run) group_left (currency) {self.price}"

    @property
    def cost_of_range(self) -> str:
        """Of each run, what was settled in the time range."""
        hours = self.gpu_hours(by="namespace, run")
        return f"{hours} * on (namespace, run) group_left (currency) {self.price}"

    @property
    def cost_of_a_point(self) -> str:
        return f"{self.cost} / on (namespace, run) group_left () ({self.gain} > 0)"

    @property
    def gpus_by_ledger(self) -> str:
        """GPUs held now, a mean of half an hour."""
        return f"sum(deriv({self.metric('run_allocated_gpu_seconds')}[30m]))"

    @property
    def gpus_by_kubernetes(self) -> str:
        """GPUs held now by the runs' pods. Recorded by a rule: over a day, pods are too many to go through."""
        return f"sum(namespace:kube_evolution_gpus:sum{{{self.namespace}}})"

    @property
    def gpu_hours_by_ledger(self) -> str:
        """Held in the time range, settled or not. When an attempt ends, the gauge may fall by a few seconds."""
        held = self.metric("run_allocated_gpu_seconds")
        return (
            f"sum(max by (namespace, run) (max_over_time({held}[{RANGE}]))"
            f" - min by (namespace, run) (min_over_time({held}[{RANGE}]))) / 3600"
        )

    @property
    def gpu_hours_by_kubernetes(self) -> str:
        """The same, looked at minute by minute."""
        return f"sum_over_time({self.gpus_by_kubernetes}[{RANGE}:1m]) / 60"


CHOSEN_RUNS = Runs('namespace=~"$namespace"')
ONE_RUN = Runs('namespace="$namespace"', 'run="$run"')
