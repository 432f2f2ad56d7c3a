"""What a scrape costs with many runs: `python -m bench.metrics`, with PYTHONPATH=tests.

Two hundred live runs that have all changed since the scrape before, asked for over HTTP as Prometheus asks; then the
same with 5,000 runs that have ended.
"""

import asyncio
import gzip
import socket
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp
import psutil
from prometheus_client import CollectorRegistry, generate_latest
from shown_run import START, edited, ended_attempt, shown_run
from told_metrics import Told

from evolution.attempt import RESULTS
from evolution.metrics.exposition import RunCollector, RunMetrics
from evolution.metrics.run_samples import RunFigures, run_samples
from evolution.plan.stage import Kind
from evolution_operator.app import spare_the_collector
from evolution_operator.metrics import Metrics
from evolution_operator.metrics_server import GZIP_LEVEL, metrics_served
from evolution_operator.records import RunKey
from evolution_operator.settings import Settings

LIVE, FINISHED, SCRAPES = 200, 5_000, 100
NAMESPACES = ("ml-platform", "team-legal", "team-support", "search-quality", "it-operations")
SUBJECTS = ("contracts", "tickets", "runbooks", "manuals", "policies")


def key_of(number: int) -> RunKey:
    return RunKey(NAMESPACES[number % len(NAMESPACES)], f"{SUBJECTS[number % len(SUBJECTS)]}-{number:04}")


def tell(here: Told, figures: RunFigures, number: int, ended_at: datetime | None = None) -> None:
    """The run of this number stands so now."""
    namespace, name = key_of(number)
    metadata = figures.run.metadata.model_copy(update={"name": name, "namespace": namespace})
    run = figures.run.model_copy(update={"metadata": metadata})
    here.tell(replace(figures, run=run), START + timedelta(minutes=number), ended_at)


def tell_of_a_while(metrics: Metrics) -> None:
    """Histograms and counters."""
    for number in range(2_000):
        attempt = ended_attempt(number, list(Kind)[number % 6], 1, RESULTS[number % len(RESULTS)])
        metrics.ended(NAMESPACES[number % len(NAMESPACES)], attempt, "applied")
    handled = metrics.handled("reconcile")
    for number in range(1_000):
        handled(number / 1000, True)


async def scraped(session: aiohttp.ClientSession, port: int, encoding: str) -> tuple[float, bytes]:
    """Milliseconds until the last byte, and what came."""
    started = time.perf_counter()
    async with session.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept-Encoding": encoding}) as answer:
        body = await answer.read()
    return (time.perf_counter() - started) * 1000, body


async def measure(strategy: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    requests = Counter({("patch", "evolutionruns", 200): 12_345, ("list", "jobs", 200): 40, ("get", "pods", 0): 2})
    here = Told(Settings(store="file:///store", metrics_port=port, gpu_prices=(("h100", 2.5),)), requests=requests)
    tell_of_a_while(here.metrics)
    spare_the_collector()  # as the operator does once it has listed everything
    async with (
        metrics_served(here.settings, here.metrics.page),
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        print(f"## {LIVE} live runs, selection strategy {strategy}")  # noqa: T201
        figures, changing = shown_run(spec={"selection": {"strategy": strategy}}), []
        for turn in range(SCRAPES):
            figures = edited(figures, ended_attempt(1000 + turn, Kind.TRAIN, 4))
            started = time.perf_counter()
            for number in range(LIVE):
                tell(here, figures, number)
            changing.append((time.perf_counter() - started) * 1000 / LIVE)
            if turn == 0:
                taken: dict[str, list[float]] = {"gzip": [], "identity": []}
            for encoding, times in taken.items():
                took, body = await scraped(session, port, encoding)
                times.append(took)
                if encoding == "gzip":
                    packed, text = len(body), len(gzip.decompress(body))
        for encoding, times in taken.items():
            cuts = statistics.quantiles(times, n=100)
            print(f"scrape, {encoding}: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms")  # noqa: T201
        print(f"text {text / 2**20:.2f} MiB, compressed {packed / 2**10:.0f} KiB")  # noqa: T201
        busy = []
        for _ in range(20):
            cpu = time.process_time()
            gzip.compress(here.metrics.page("")[0], GZIP_LEVEL)
            busy.append((time.process_time() - cpu) * 1000)
        print(f"processor time of a page and its compression: {statistics.median(busy):.1f} ms")  # noqa: T201
        print(f"a change of one run: {statistics.median(changing):.2f} ms")  # noqa: T201
        print(f"series of one run: {len(list(run_samples(figures)))}")  # noqa: T201

        process = psutil.Process()
        before = process.memory_info().rss
        now = datetime.now(UTC)
        for number in range(LIVE, LIVE + FINISHED):
            tell(here, figures, number, now - timedelta(minutes=number / 4))
        took, body = await scraped(session, port, "identity")
        grown = (process.memory_info().rss - before) / 2**20
        print(f"with {FINISHED} finished runs more: text {len(body) / 2**20:.2f} MiB, in {took:.1f} ms")  # noqa: T201
        print(f"memory grew by {grown:.1f} MiB, their records in the cache included")  # noqa: T201
        lines = [line for line in body.decode().splitlines() if line.startswith("evolution_operator_runs_not_shown")]
        print("\n".join(lines))  # noqa: T201


def beside_prometheus_client() -> None:
    registry = CollectorRegistry()
    samples = tuple(run_samples(shown_run()))
    runs = [RunMetrics(*key_of(number), samples) for number in range(LIVE)]
    registry.register(RunCollector(lambda: runs))
    started = time.perf_counter()
    generate_latest(registry)
    print(f"prometheus_client alone: {(time.perf_counter() - started) * 1000:.0f} ms")  # noqa: T201


def main() -> int:
    for strategy in ("None", "Hard"):
        asyncio.run(measure(strategy))
    beside_prometheus_client()
    return 0


if __name__ == "__main__":
    sys.exit(main())
