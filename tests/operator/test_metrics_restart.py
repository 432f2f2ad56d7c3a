"""What Prometheus sees of an operator that is killed, and of runs that come, go and come again."""

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from controlplane.processes import Port
from controlplane.waiting import eventually
from fakeapi import kinds
from fakeapi.kubelet import Fate
from fakeapi.server import FakeApi
from operator_process import running_operator
from prometheus_client.parser import text_string_to_metric_families
from simulated import MINIMAL, merged

from evolution.metrics.families import FAMILIES
from evolution_operator.settings import WrongSettings, read_settings

SERVED = {name for family in FAMILIES for name in family.series}
OF_RUNS = {f.name for f in FAMILIES if f.type == "counter" and f.labels[:2] == ("namespace", "run")}
Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Page:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def counters(page: Page) -> Page:
    """Those of runs."""
    return {series: value for series, value in page.items() if series[0] in OF_RUNS}


def value(page: Page, name: str, **labels: str) -> float:
    return sum(v for (of, its), v in page.items() if of == f"evolution_{name}" and labels.items() <= dict(its).items())


def succeeded(page: Page) -> float:
    return value(page, "run_attempts_total", result="succeeded")


class Installation:
    """An operator whose metrics are scraped, before a cluster whose workers hold two GPUs each."""

    def __init__(self, api: FakeApi, folder: Path) -> None:
        self.api = api
        self._folder = folder
        self._kubeconfig = api.write_kubeconfig(folder / "kubeconfig")
        port = Port()
        port.release()
        self.port = port.number
        spec = {"image": "trainer:1", "resources": {"gpus": 2}, "gpuClass": "h100"}
        api.client.create(kinds.CLUSTER_RUNTIMES, {"metadata": {"name": "default"}, "spec": spec})

    def operator(self, *arguments: str) -> Any:
        store = (self._folder / "store").as_uri()
        metrics = ("--metrics-port", str(self.port), "--progress-seconds", "0.5", *arguments)
        return running_operator(self._kubeconfig, store, self._folder / "operator", *metrics)

    def create(self, name: str, **spec: Any) -> None:
        self.api.client.create(kinds.RUNS, {"metadata": {"name": name}, "spec": merged(MINIMAL, {"rounds": 1, **spec})})

    def edit(self, name: str, **spec: Any) -> None:
        self.api.client.patch(kinds.RUNS, name, {"spec": spec})

    def running(self) -> bool:
        """Whether a worker is at its first training."""
        pods = self.api.client.items(kinds.PODS)
        return any(p["status"]["phase"] == "Running" and "-r1-train-" in p["metadata"]["name"] for p in pods)

    def until(self, what: str, holds: Callable[[Page], bool]) -> Page:
        def page() -> Page | None:
            found = scrape(self.port)
            return found if holds(found) else None

        return eventually(page, what)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with FakeApi() as api:
        yield Installation(api, tmp_path)


def complete(name: str) -> Callable[[Page], bool]:
    return lambda page: value(page, "run_phase", run=name, phase="Complete") == 1


@pytest.mark.slow
def test_an_operator_that_is_killed_goes_on_where_it_was(installation: Installation) -> None:
    """The run is suspended meanwhile: at such a change its history is written at once, not within half a minute."""
    installation.api.fate(Fate(job="*-r1-train-*", hang=True))
    with installation.operator() as operator:
        installation.create("ops")
        eventually(installation.running, "a worker that hangs")
        installation.edit("ops", suspend=True)
        before = installation.until(
            "what it did to be shown",
            lambda page: value(page, "stage_samples_total", stage="Generate", result="kept") > 0,
        )
        operator.kill()
    with installation.operator():
        again = installation.until("the run", lambda page: bool(counters(page)))
        installation.edit("ops", suspend=False)
        installation.until("the end", complete("ops"))
        end = installation.until(
            "the end of the one that hung", lambda page: value(page, "run_attempts_total") == succeeded(page) + 1
        )
    assert counters(again) == counters(before)
    for series, earlier in counters(again).items():
        assert end[series] >= earlier, series
    assert value(end, "run_attempts_total", result="stopped") == 1
    settled = value(end, "stage_gpu_seconds_total") + value(end, "run_unsettled_gpu_seconds")
    assert settled == pytest.approx(value(end, "run_allocated_gpu_seconds"), abs=0.01)
    assert value(end, "run_info", gpu_class="h100") == 1
    assert {name for name, _ in end} <= SERVED


@pytest.mark.slow
def test_a_run_that_ended_is_shown_with_the_same_figures_by_the_next_operator(installation: Installation) -> None:
    with installation.operator():
        installation.create("ops")
        before = installation.until("the end", complete("ops"))
    with installation.operator():
        after = installation.until("the run", complete("ops"))
    assert counters(after) == counters(before)
    assert value(after, "operator_runs_not_shown") == 0


@pytest.mark.slow
def test_a_run_that_is_deleted_is_gone_and_one_created_again_begins_at_zero(installation: Installation) -> None:
    with installation.operator():
        installation.create("ops")
        installation.until("the end", complete("ops"))
        installation.api.client.delete(kinds.RUNS, "ops")
        installation.until("nothing", lambda page: not counters(page) and value(page, "runs") == 0)
        installation.create("ops", suspend=True)
        again = installation.until("it to be shown", lambda page: bool(counters(page)))
    spent = {series: v for series, v in counters(again).items() if series[0] != "evolution_run_rounds_total"}
    assert set(spent.values()) == {0}


@pytest.mark.slow
def test_without_single_runs_there_is_no_name_of_a_run(installation: Installation) -> None:
    with installation.operator("--metrics-per-run", "false"):
        installation.create("ops")
        installation.until("the end", lambda page: value(page, "runs", phase="Complete") == 1)
        page = installation.until("its attempts", lambda page: succeeded(page) > 0)
    assert value(page, "run_attempts_total", result="succeeded", namespace="default", run="") == succeeded(page)
    assert not [labels for _, labels in page if dict(labels).get("run")]


def test_metrics_that_cannot_be_served_end_the_operator_with_exit_code_2(
    installation: Installation, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none")
    with installation.operator("--metrics-token-file", missing) as operator:
        assert operator.process.wait(30) == 2
    assert f"--metrics-token-file '{missing}': cannot be used" in operator.said
    assert "Traceback" not in operator.said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metrics-port", "0"), "--metrics-port '0'"),
        (("--metrics-certificate", "a.crt"), "--metrics-key"),
        (("--metrics-per-run", "maybe"), "maybe"),
        (("--metrics-runs", "1.5"), "not a whole number of runs"),
        (("--metrics-hours", "-1"), "--metrics-hours '-1'"),
        (("--gpu-price", "h100"), "'h100'"),
        (("--gpu-price", "h100=cheap"), "'cheap'"),
    ],
)
def test_a_wrong_setting_is_named(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(WrongSettings, match=said):
        read_settings(["--store", "file:///s", *arguments], {})


def test_prices_may_come_from_the_environment() -> None:
    settings = read_settings(["--store", "file:///s"], {"EVOLUTION_GPU_PRICES": "h100=2.5, l40s=0.8"})
    assert settings.gpu_prices == (("h100", 2.5), ("l40s", 0.8))
