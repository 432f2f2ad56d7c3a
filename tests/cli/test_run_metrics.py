"""`evolve run --metrics-port`: Prometheus is told of a run on this machine what its history in the store says."""

import json
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from invented_worker import InventedWorker, Invention
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from small_run import Workplace, small_workplace
from terminals import Terminal

from evolution.decide import Plan
from evolution.ledger import Ledger
from evolution.local.metrics_server import MetricsServer
from evolution.local.places import StoredRun, open_run
from evolution.local.runner import Runner
from evolution.metrics.families import FAMILIES
from evolution.plan.order import Order
from evolution.plan.stage import Kind
from evolution.plan.tally import Tally, spent_on_committed
from evolution.plan.worker import Committed, Event, OrderDone
from evolution.store.history import read_history

Values = dict[tuple[str, ...], float]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def scraped(port: int) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def by_labels(page: dict[str, Metric], family: str, *labels: str) -> Values:
    """Values other than 0, by these labels."""
    samples = page[family].samples if family in page else []
    return {tuple(s.labels[label] for label in labels): s.value for s in samples if s.value}


def seconds(ledger: Ledger) -> Values:
    found = ledger.gpu_milliseconds()
    return {(kind.value, class_): ms / 1000 for kind, classes in found.items() for class_, ms in classes.items() if ms}


def attempts(ledger: Ledger) -> Values:
    return {(result,): count for result, count in sum(map(Counter, ledger.results().values()), Counter()).items()}


class TwoGpus(InventedWorker):
    """Tells what it spent, as a worker with two GPUs does."""

    def execute(self, order: Order) -> Iterator[Event]:
        tally = Tally(worker="invented", started_at="2026-11-21T10:00:00.000Z", gpus=2)
        for event in super().execute(order):
            if isinstance(event, Committed):
                tally = tally.adding(event.manifest.kind, spent_on_committed(event.manifest))
            yield OrderDone(tally=tally) if isinstance(event, OrderDone) else event


class Scraper:
    """An audience that scrapes at every decision, when the history has just been written."""

    def __init__(self, local: StoredRun, port: int) -> None:
        self.local, self.port = local, port
        self.seen: list[tuple[dict[str, Metric], Ledger]] = []

    def planned(self, plan: Plan) -> None:  # noqa: ARG002
        history = read_history(self.local.artifacts.store, self.local.id)
        self.seen.append((scraped(self.port), history.ledger if history else Ledger()))

    def happened(self, event: Event) -> None: ...

    def warned(self, message: str) -> None: ...


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv("EVOLUTION_CACHE", str(tmp_path / "cache"))
    return small_workplace(tmp_path)


def test_every_scrape_says_what_the_history_says(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolution.local.runner.Worker", TwoGpus)
    monkeypatch.setattr(InventedWorker, "invention", Invention(), raising=False)
    local, port = open_run(place.file, None), free_port()
    scraper = Scraper(local, port)
    with MetricsServer(local, scraper, port) as server:
        assert Runner(local, server).run().status.state == "Complete"
    for page, ledger in scraper.seen:
        assert by_labels(page, "evolution_stage_gpu_seconds", "stage", "class") == seconds(ledger)
        assert by_labels(page, "evolution_run_attempts", "result") == attempts(ledger)
    last = scraper.seen[-1][1]
    assert sum(last.by_class().values()) > 0
    assert sum(attempts(last).values()) == 11
    assert by_labels(scraper.seen[-1][0], "evolution_run_phase", "phase") == {("Complete",): 1}


def test_only_metrics_of_the_table_are_served(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolution.local.runner.Worker", TwoGpus)
    monkeypatch.setattr(InventedWorker, "invention", Invention(), raising=False)
    local, port = open_run(place.file, None), free_port()
    scraper = Scraper(local, port)
    with MetricsServer(local, scraper, port) as server:
        Runner(local, server).run()
    known = {family.name.removesuffix("_total") for family in FAMILIES}
    assert set(scraper.seen[-1][0]) <= known


@pytest.fixture
def here(place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(place.folder, capsys, monkeypatch)


def test_a_port_that_is_taken_is_told_before_anything_starts(place: Workplace, here: Terminal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = here.evolve("run", str(place.file), "--metrics-port", str(port))
    assert refused.code == 40
    assert f"--metrics-port: cannot listen on 127.0.0.1:{port}" in refused.err
    assert place.manifests() == {}


def test_a_port_that_does_not_exist_is_refused(place: Workplace, here: Terminal) -> None:
    assert here.evolve("run", str(place.file), "--metrics-port", "70000").code == 2


@pytest.mark.slow
def test_a_real_run_is_scraped_while_it_goes_on(place: Workplace) -> None:
    port = free_port()
    process = place.start("run", "--metrics-port", str(port))
    seen: list[tuple[dict[str, Metric], Ledger]] = []
    while not ended(process):
        before = written(place)
        try:
            page = scraped(port)
        except OSError:
            continue  # it does not listen yet, or no more
        if before and before == written(place):
            seen.append((page, before))
    assert process.returncode == 0
    for page, ledger in seen:
        assert by_labels(page, "evolution_run_attempts", "result") == attempts(ledger)
        assert by_labels(page, "evolution_stage_gpu_seconds", "stage", "class") == seconds(ledger)
    page, ledger = seen[-1]
    tokens = by_labels(page, "evolution_stage_tokens", "stage", "direction")
    assert tokens["Generate", "generated"] == ledger.output()[Kind.GENERATE].generated_tokens
    assert sum(attempts(ledger).values()) > 5


def ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether it ends within a moment."""
    try:
        return process.wait(0.1) is not None
    except subprocess.TimeoutExpired:
        return False


def written(place: Workplace) -> Ledger | None:
    """The ledger in the store's folder."""
    found = list((place.folder / ".evolution" / "default" / "runs").glob("*/history.json"))
    return Ledger.model_validate(json.loads(found[0].read_bytes())["ledger"]) if found else None
