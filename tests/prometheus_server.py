"""A real Prometheus on loopback, for as long as a block of code needs one, and a small client of its HTTP API."""

import json
import math
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
import yaml

DEADLINE = 60.0
"""Seconds until the server must answer."""


class QueryError(Exception):
    """Prometheus cannot evaluate an expression; the message has its words and the expression."""


@dataclass(frozen=True)
class Target:
    """What is scraped: `address` is host:port. Labels that it serves itself win over those of the scrape."""

    job: str
    address: str
    path: str = "/metrics"
    settings: Mapping[str, object] = field(default_factory=dict)
    """More fields of the scrape configuration, as Prometheus names them: `scheme`, `authorization`, `tls_config`."""

    def configuration(self) -> dict[str, object]:
        return {
            "job_name": self.job,
            "metrics_path": self.path,
            "honor_labels": True,
            "static_configs": [{"targets": [self.address]}],
            **self.settings,
        }


@dataclass(frozen=True)
class Sample:
    """One value of an instant query, with the labels of its series."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Series:
    """One series of a range query: pairs of Unix time and value, oldest first."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Selector:
    """What an expression reads: the metric, and the labels by which series of it are chosen, with the values if they
    are given as such and not as a pattern."""

    metric: str
    labels: dict[str, str | None]


class PrometheusServer:
    """Its configuration, data and log lie in `folder`; it can be stopped and started again at the same address."""

    def __init__(
        self, binary: Path, folder: Path, targets: Sequence[Target], rules: Sequence[Path] = (), interval: float = 1.0
    ) -> None:
        """`rules` are plain rule files; `interval` is the seconds between scrapes, and between evaluations of rules."""
        self._binary, self._folder = binary, folder
        self._address = f"127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._http = urllib3.PoolManager(timeout=30, retries=False)
        self.url = f"http://{self._address}"
        pause = f"{round(interval * 1000)}ms"
        configuration = {
            "global": {"scrape_interval": pause, "scrape_timeout": pause, "evaluation_interval": pause},
            "rule_files": [str(path.resolve()) for path in rules],
            "scrape_configs": [target.configuration() for target in targets],
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))

    def start(self) -> None:
        """Raises TimeoutError, with the end of its log, if it does not answer."""
        log = self._folder / "prometheus.log"
        command = [
            str(self._binary),
            f"--config.file={self._folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self._address}",
            "--scrape.discovery-reload-interval=100ms",  # by default, targets are looked at after 5 s
        ]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + DEADLINE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"Prometheus did not come up\n{log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(timeout=30)

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """The values of an expression now, or at a Unix time.

        Raises:
            QueryError: Prometheus cannot evaluate it.
        """
        told = self._get("query", {"query": expression} | ({} if at is None else {"time": f"{at:.3f}"}))
        if told["resultType"] == "scalar":
            return [Sample({}, float(told["result"][1]))]
        return [Sample(found["metric"], float(found["value"][1])) for found in told["result"]]

    def value(self, expression: str, at: float | None = None) -> float:
        """Of an expression with at most one series; NaN without any."""
        found = self.query(expression, at)
        if len(found) > 1:
            raise QueryError(f"{len(found)} series where one was expected: {expression}")
        return found[0].value if found else math.nan

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """The values of an expression from one Unix time to another, every `step` seconds.

        Raises:
            QueryError: Prometheus cannot evaluate it.
        """
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        told = self._get("query_range", {"query": expression} | times)
        return [
            Series(found["metric"], [(when, float(value)) for when, value in found["values"]])
            for found in told["result"]
        ]

    def selectors(self, expression: str) -> list[Selector]:
        """All that an expression reads.

        Raises:
            QueryError: it is no PromQL.
        """
        return list(_selectors(self._get("parse_query", {"query": expression})))

    def rules(self) -> list[dict[str, Any]]:
        """All rules, as the API tells them: with `name`, `type`, `health`, `lastError`, and `state` of alerts."""
        return [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, as the API tells it: with `labels`, `health` and `lastError`."""
        return list(self._get("targets", {"state": "active"})["activeTargets"])

    def _get(self, what: str, fields: Mapping[str, str]) -> Any:
        answer = self._http.request("GET", f"{self.url}/api/v1/{what}", fields=dict(fields))
        told = json.loads(answer.data)
        if told["status"] != "success":
            raise QueryError(f"{told.get('error', answer.status)}: {fields.get('query', what)}")
        return told["data"]

    def _ready(self) -> bool:
        try:
            return self._http.request("GET", f"{self.url}/-/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False


StartPrometheus = Callable[..., PrometheusServer]
"""What the fixture `start_prometheus` is: called with targets, and where wanted rules and interval."""


@contextmanager
def prometheus_server(
    binary: Path, folder: Path, targets: Sequence[Target], rules: Sequence[Path] = (), interval: float = 1.0
) -> Iterator[PrometheusServer]:
    """A server with its data and log in `folder`; stopped at the end.

    Raises:
        TimeoutError: it does not answer; the message ends with its log.
    """
    server = PrometheusServer(binary, folder, targets, rules, interval)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _selectors(node: object) -> Iterator[Selector]:
    if isinstance(node, list):
        for part in node:
            yield from _selectors(part)
    elif isinstance(node, dict):
        if node.get("type") in ("vectorSelector", "matrixSelector"):
            chosen = {m["name"]: m["value"] if m["type"] in ("=", "!=") else None for m in node["matchers"]}
            name = chosen.pop("__name__", None)
            yield Selector(node["name"] or name or "", chosen)
        for part in node.values():
            yield from _selectors(part)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
