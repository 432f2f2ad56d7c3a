"""The Prometheus of the tests scrapes what they serve, keeps its labels, evaluates rules and answers queries."""

import http.server
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from controlplane.waiting import eventually
from prometheus_server import QueryError, StartPrometheus, Target

pytestmark = pytest.mark.prometheus

RULES = """
groups:
  - name: test
    rules:
      - {record: "run:double:sum", expr: "2 * evolution_test"}
      - {alert: TooLarge, expr: "evolution_test > 20"}
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server with one metric that has a label `namespace`, as Evolution's have."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(b'evolution_test{namespace="team-a",job="mine"} 21\n')

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_it_scrapes_evaluates_and_answers(address: str, start_prometheus: StartPrometheus, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    began = time.time()
    prometheus = start_prometheus([Target("operator", address)], [rules], interval=0.2)
    double = eventually(lambda: prometheus.query("run:double:sum"))
    assert [sample.value for sample in double] == [42.0]
    assert (double[0].labels["namespace"], double[0].labels["job"]) == ("team-a", "mine")
    assert [target["health"] for target in prometheus.targets()] == ["up"]
    assert eventually(lambda: [r for r in prometheus.rules() if r.get("state") == "firing"])[0]["name"] == "TooLarge"
    series = eventually(lambda: prometheus.query_range("evolution_test", began, time.time(), 0.1))
    assert {value for _, value in series[0].points} == {21.0}
    assert prometheus.value("scalar(evolution_test)") == 21.0
    assert math.isnan(prometheus.value("absent(evolution_test)"))


def test_what_it_scraped_is_there_after_a_restart(address: str, start_prometheus: StartPrometheus) -> None:
    prometheus = start_prometheus([Target("operator", address)], interval=0.2)
    eventually(lambda: prometheus.query("evolution_test"))
    scraped = time.time()
    prometheus.stop()
    prometheus.start()
    assert prometheus.value("evolution_test", at=scraped) == 21.0


def test_an_expression_that_is_wrong_is_told_with_the_reason(start_prometheus: StartPrometheus) -> None:
    with pytest.raises(QueryError, match=r"parse error.*: sum\("):
        start_prometheus([]).query("sum(")
