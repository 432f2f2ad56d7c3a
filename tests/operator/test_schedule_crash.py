"""The operator may be killed at any write for a schedule: its next life starts nothing twice and says what there is."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from api_mistakes import COMMIT
from api_objects import LEFT_OUT, schedule
from fakeapi.client import Client
from fakeapi.fork_server import ForkServer
from fakeapi.killing_proxy import KillingProxy, When
from fakeapi.kinds import NAMESPACES, RUNS, SCHEDULES
from fakeapi.server import FakeApi

ON_CHANGE = schedule(
    {
        "spec.schedule": LEFT_OUT,
        "spec.onChange": {},
        # What can be looked at without a network: a commit never changes.
        "spec.runTemplate.spec.documents.uri": f"hf://datasets/org/manuals@{COMMIT}",
        "spec.runTemplate.spec.evaluation.uri": f"hf://datasets/org/manuals@{COMMIT}/held-out.jsonl",
    }
)


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer("evolution_operator") as server:
        yield server


def settled(client: Client) -> dict[str, Any]:
    """The schedule once it speaks of a run."""
    return client.until(SCHEDULES, "nightly", lambda body: bool(body.get("status", {}).get("lastRun")), "team")


@pytest.mark.parametrize(
    ("write", "when"),
    [(1, "Before"), (1, "Applied"), (2, "Before"), (2, "Applied")],
    ids=["before the run", "after the run", "before what follows", "after what follows"],
)
def test_a_crash_starts_no_second_run(forks: ForkServer, tmp_path: Path, write: int, when: When) -> None:
    with FakeApi() as api, KillingProxy(api.write_kubeconfig(tmp_path / "upstream")) as proxy:
        environment = {
            "KUBECONFIG": str(proxy.write_kubeconfig(tmp_path / "kubeconfig")),
            "EVOLUTION_CACHE": str(tmp_path),
        }
        log = tmp_path / "operator.log"

        def start() -> int:
            return forks.spawn("evolution_operator", ["--store", (tmp_path / "store").as_uri()], environment, log)

        api.client.create(NAMESPACES, {"metadata": {"name": "team"}}, "")
        api.client.create(SCHEDULES, {**ON_CHANGE, "metadata": {"name": "nightly"}}, "team")
        victim: Future[int] = Future()
        proxy.kill_at(write, when, victim)
        victim.set_result(start())
        assert proxy.killed.wait(30), log.read_text()
        second = start()
        status = settled(api.client)["status"]
        os.kill(second, signal.SIGKILL)

        assert "Traceback" not in log.read_text()
        (run,) = api.client.items(RUNS, "team")
        created = [w for w in proxy.writes if (w.verb, w.resource, w.code) == ("create", "evolutionruns", 201)]
        assert len(created) == 1
        assert (status["lastRun"], status["active"]) == (run["metadata"]["name"], [run["metadata"]["name"]])
        assert status["lastDocumentsDigest"] == run["spec"]["documents"]["revision"]
