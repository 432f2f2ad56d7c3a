"""An operator that Prometheus scrapes: what it tells of recorded runs, and that nothing is counted twice or lost when
it is restarted, and when runs are deleted and made again.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from controlplane.processes import Port
from controlplane.waiting import eventually
from fakeapi import kinds
from fakeapi.kubelet import Fate
from fakeapi.server import FakeApi
from monitoring.rule_files import plain_rules
from monitoring.scenario.cast import CONTRACTS, MANUALS, OLD
from monitoring.scenario.recording import ENDPOINT
from monitoring.scenario.story import Story, moment
from operator_process import OperatorProcess, running_operator
from prometheus_server import PrometheusServer, StartPrometheus, Target
from simulated import MINIMAL, merged

from evolution.api.status import Condition, EvolutionRunStatus, State
from evolution.ledger import Ledger
from evolution.metrics.families import FAMILIES
from evolution.store.history import write_history
from evolution.store.open import open_store
from evolution_operator.jobs import run_id

pytestmark = [pytest.mark.prometheus, pytest.mark.slow]

COUNTERS = [f.name for f in FAMILIES if f.type == "counter" and f.labels[:2] == ("namespace", "run")]
OF_RUNS = f'{{__name__=~"{"|".join(COUNTERS)}"}}'
WINDOW = "30m"
"""Longer than a test."""
INTERVAL = 0.2
AS_OF = "24:25"
"""When all attempts of the recorded runs had ended."""
RECORDED: tuple[tuple[Story, State], ...] = ((CONTRACTS, "Complete"), (OLD, "Failed"), (MANUALS, "Suspended"))
Series = frozenset[tuple[str, str]]


def ledger_of(story: Story) -> Ledger:
    now = moment("26:00" if story is CONTRACTS else AS_OF)
    ended = [attempt for attempt in story.attempts(now) if attempt.ended_at]
    return Ledger().noting(ended).judging(story.run.spec, story.graph(now))


class Installation:
    """An operator, a cluster of two namespaces and a Prometheus."""

    def __init__(self, api: FakeApi, folder: Path) -> None:
        self.api, self._folder = api, folder
        self._store = (folder / "store").as_uri()
        self._ports = {pod: Port() for pod in ("operator-a", "operator-b")}
        for port in self._ports.values():
            port.release()
        self._kubeconfig = api.write_kubeconfig(folder / "kubeconfig")
        for namespace in ("team-legal", "team-med"):
            api.client.create(kinds.NAMESPACES, {"metadata": {"name": namespace}}, "")
        spec = {"image": "trainer:1", "resources": {"gpus": 2}, "gpuClass": "h100"}
        api.client.create(kinds.CLUSTER_RUNTIMES, {"metadata": {"name": "default"}, "spec": spec})

    def operator(self, pod: str = "operator-a") -> AbstractContextManager[OperatorProcess]:
        port = str(self._ports[pod].number)
        flags = ("--metrics-port", port, "--progress-seconds", "0.5", "--gpu-price", "h100=3")
        return running_operator(self._kubeconfig, self._store, self._folder / "operator", *flags)

    def scraped(self, start_prometheus: StartPrometheus) -> PrometheusServer:
        """As the PodMonitor says: the operator's pods are targets with labels of their own."""
        pods = [
            {"targets": [f"127.0.0.1:{port.number}"], "labels": {"namespace": "evolution-system", "pod": pod}}
            for pod, port in self._ports.items()
        ]
        relabelled = [
            {
                "source_labels": rule["sourceLabels"],
                "regex": rule["regex"],
                "target_label": rule["targetLabel"],
                "replacement": rule["replacement"],
            }
            for rule in ENDPOINT["metricRelabelings"]
        ]
        settings = {"static_configs": pods, "metric_relabel_configs": relabelled}
        target = Target("evolution-operator", "", settings=settings)
        return start_prometheus([target], plain_rules(self._folder / "rules"), INTERVAL)

    def record(self, story: Story, state: State) -> None:
        """A run as an earlier operator has left it: object, status and history."""
        suspended = {"suspend": True} if state == "Suspended" else {}
        body = {"metadata": {"name": story.name}, "spec": merged(merged(MINIMAL, story.spec), suspended)}
        uid = self.api.client.create(kinds.RUNS, body, story.namespace)["metadata"]["uid"]
        status = EvolutionRunStatus(state=state)
        if not suspended:
            ended = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            over = Condition(type=state, status="True", reason="Ended", last_transition_time=ended)
            status = EvolutionRunStatus(state=state, observed_generation=1, conditions=(over,))
            told = status.model_dump(by_alias=True, mode="json")
            self.api.client.patch(kinds.RUNS, story.name, {"status": told}, story.namespace, "status")
        graph = story.graph(moment("26:00" if story is CONTRACTS else AS_OF))
        write_history(
            open_store(f"{self._store}/{story.namespace}"),
            run_id(story.name, uid),
            story.run,
            graph,
            status,
            failures={},
            ledger=ledger_of(story),
            manifests={s.fingerprint: s.manifest for s in graph.stages if s.fingerprint and s.manifest},
        )

    def create(self, name: str, **spec: object) -> None:
        """A run that waits to be resumed."""
        told = merged(MINIMAL, {"rounds": 1, "suspend": True, **spec})
        self.api.client.create(kinds.RUNS, {"metadata": {"name": name}, "spec": told}, "team-med")

    def suspend(self, name: str, *, yes: bool) -> None:
        self.api.client.patch(kinds.RUNS, name, {"spec": {"suspend": yes}}, "team-med")

    def trains(self, name: str) -> bool:
        pods = self.api.client.items(kinds.PODS, "team-med")
        begun = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        return any(pod["metadata"]["name"].startswith(f"{name}-r1-train-") for pod in begun)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with FakeApi() as api:
        yield Installation(api, tmp_path)


def rows(prometheus: PrometheusServer, expression: str, at: float | None = None) -> dict[Series, float]:
    """Without the job. No two rows differ in nothing else: figures of runs are one series, whichever pod tells them."""
    found = prometheus.query(expression, at)
    told = {
        frozenset((k, v) for k, v in s.labels.items() if k not in ("job", "instance", "pod")): s.value for s in found
    }
    assert len(told) == len(found), f"series of several pods: {found}"
    return told


def labels(series: Series, *names: str) -> tuple[str, ...]:
    return tuple(dict(series).get(name, "") for name in names)


def counted(prometheus: PrometheusServer, run: str) -> dict[Series, float]:
    """All counters of a run, now."""
    return rows(prometheus, OF_RUNS.replace("}", f', run="{run}"}}'))


def grown(prometheus: PrometheusServer, run: str) -> dict[Series, float]:
    """By how much each counter of a run grew since the test began, as of the last time that it was scraped.

    Between two scrapes Prometheus would take it that they grow on.
    """
    at = prometheus.value(f'timestamp(evolution_run_info{{run="{run}"}})')
    found: dict[Series, float] = {}
    for name in COUNTERS:
        one = rows(prometheus, f'increase({name}{{run="{run}"}}[{WINDOW}])', at)
        found |= {series | {("__name__", name)}: value for series, value in one.items()}
    return found


def is_in(prometheus: PrometheusServer, run: str, phase: str) -> bool:
    return prometheus.value(f'max(evolution_run_phase{{run="{run}", phase="{phase}"}})') == 1


def wait_for(prometheus: PrometheusServer, run: str, phase: str) -> None:
    eventually(lambda: is_in(prometheus, run, phase), f"{run} being {phase}", seconds=60)


def test_prometheus_has_what_the_ledgers_of_the_runs_say(
    installation: Installation, start_prometheus: StartPrometheus
) -> None:
    for story, state in RECORDED:
        installation.record(story, state)
    with installation.operator() as operator:
        prometheus = installation.scraped(start_prometheus)
        for story, state in RECORDED:
            wait_for(prometheus, story.name, state)
        assert prometheus.value('up{namespace="evolution-system", pod="operator-a"}') == 1
        assert prometheus.value("evolution_operator_active") == 1

        seconds = rows(prometheus, "evolution_stage_gpu_seconds_total")
        attempts = rows(prometheus, "evolution_run_attempts_total")
        for story, _ in RECORDED:
            ledger, run = ledger_of(story), (story.namespace, story.name)
            told = {labels(s, "stage", "class"): v for s, v in seconds.items() if labels(s, "namespace", "run") == run}
            held = {
                (kind.value, class_): value / 1000
                for kind, classes in ledger.gpu_milliseconds().items()
                for class_, value in classes.items()
            }
            assert {key: value for key, value in told.items() if value} == held
            ended = {labels(s, "result")[0]: int(v) for s, v in attempts.items() if labels(s, "run") == run[1:]}
            results = sum((Counter(counts) for counts in ledger.results().values()), Counter())
            assert +Counter(ended) == results

        by_run = 'max by (run) (evolution_run_allocated_gpu_seconds{namespace="team-legal"}) / 60'
        assert {labels(s, "run"): v for s, v in rows(prometheus, by_run).items()} == {
            ("old",): 180, ("contracts",): 540, ("manuals",): 780
        }  # fmt: skip
        # nine GPU-hours at 3 USD, from 0.40 to 0.55 in three rounds
        recorded = 'namespace_run:evolution_{}{{namespace="team-legal", run="contracts"}}'
        for figure, value in {
            "cost:sum": 27,
            "cost_per_round:ratio": 9,
            "score_gain_per_gpu_hour:ratio": 0.15 / 9,
        }.items():
            assert eventually(lambda f=figure: prometheus.query(recorded.format(f)))[0].value == pytest.approx(value)
    assert "Traceback" not in operator.said


def test_nothing_is_counted_twice_or_lost_over_restart_deletion_and_creation(
    installation: Installation, start_prometheus: StartPrometheus
) -> None:
    prometheus = installation.scraped(start_prometheus)
    began = datetime.now(UTC).timestamp()
    installation.api.fate(Fate(job="ops-r1-train-*", hang=True))

    with installation.operator("operator-a") as operator:
        for name in ("ops", "steady"):
            installation.create(name, model={"uri": f"s3://models/{name}"})
            wait_for(prometheus, name, "Suspended")
            assert set(counted(prometheus, name).values()) == {0}
            installation.suspend(name, yes=False)
        wait_for(prometheus, "steady", "Complete")
        eventually(lambda: installation.trains("ops"), "a worker of ops that hangs")
        installation.suspend("ops", yes=True)
        wait_for(prometheus, "ops", "Suspended")
        operator.kill()
    before = {name: counted_at_the_end(prometheus, name) for name in ("ops", "steady")}
    eventually(lambda: prometheus.value("sum(up)") == 0, "the operator being away")

    with installation.operator("operator-b"):
        eventually(lambda: counted(prometheus, "ops") and counted(prometheus, "steady"), "both runs", seconds=60)
        after = {name: counted(prometheus, name) for name in ("ops", "steady")}
        assert after["steady"] == before["steady"]
        assert all(after["ops"][series] >= value for series, value in before["ops"].items())
        installation.suspend("ops", yes=False)
        wait_for(prometheus, "ops", "Complete")
        first_life = eventually_settled(prometheus, "ops")
        assert any(first_life.values())
        assert grown(prometheus, "ops") == pytest.approx(first_life)
        steady = grown(prometheus, "steady")
        assert steady == pytest.approx(before["steady"])
        assert_nothing_fell(prometheus, began)

        installation.api.client.delete(kinds.RUNS, "ops", "team-med")
        eventually(lambda: not counted(prometheus, "ops"), "the series of ops to end")
        assert grown(prometheus, "steady") == pytest.approx(steady)

        installation.create("ops", model={"uri": "s3://models/ops"}, training={"learningRate": 0.0005})
        wait_for(prometheus, "ops", "Suspended")
        assert set(counted(prometheus, "ops").values()) == {0}
        installation.suspend("ops", yes=False)
        wait_for(prometheus, "ops", "Complete")
        second_life = eventually_settled(prometheus, "ops")
        both = {series: first_life[series] + value for series, value in second_life.items()}
        assert grown(prometheus, "ops") == pytest.approx(both)
        assert 0 < sum(second_life.values()) < sum(first_life.values())  # what the first one made is not made again
        assert grown(prometheus, "steady") == pytest.approx(steady)


def counted_at_the_end(prometheus: PrometheusServer, run: str) -> dict[Series, float]:
    """All counters of a run as they were scraped last, be it that nobody serves them any more."""
    found: dict[Series, float] = {}
    for name in COUNTERS:
        one = rows(prometheus, f'last_over_time({name}{{run="{run}"}}[{WINDOW}])')
        found |= {series | {("__name__", name)}: value for series, value in one.items()}
    return found


def eventually_settled(prometheus: PrometheusServer, run: str) -> dict[Series, float]:
    """The counters of a run, once all that it held is in them."""
    left = f'evolution_run_allocated_gpu_seconds{{run="{run}"}} - on (namespace, run) sum by (namespace, run)'
    left += f' (evolution_stage_gpu_seconds_total{{run="{run}"}})'
    eventually(lambda: abs(prometheus.value(left)) < 0.001, "all that was held being settled")
    return counted(prometheus, run)


def assert_nothing_fell(prometheus: PrometheusServer, began: float) -> None:
    now = datetime.now(UTC).timestamp()
    for name in COUNTERS:
        series = prometheus.query_range(name, began, now, INTERVAL)
        assert series
        for one in series:
            values = [value for _, value in one.points]
            assert values == sorted(values), one.labels
