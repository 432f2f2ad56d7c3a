"""What the operator asks the store for."""

import asyncio
import socket
import time
from pathlib import Path

import pytest
from fakeapi.kinds import NAMESPACES, RUNS
from fakeapi.server import FakeApi
from operator_process import running_operator
from simulated import MINIMAL

from evolution.plan.tally import Tally
from evolution.plan.worker import Progress
from evolution.store import keys
from evolution.store.base import StoreUnavailable
from evolution.store.folder import FolderStore
from evolution_operator.knowledge import Knowledge

STAGE = "a" * 64
RUN = "demo-0ff0e7b6"


def report(
    store: FolderStore, done: int, total: int, *, shard: int | None = None, eta: float = 1.0, worker: str = ""
) -> None:
    said = Progress(
        stage="r1-generate",
        fingerprint=STAGE,
        phase="questions",
        done=done,
        total=total,
        eta_seconds=eta,
        updated_at=f"2026-11-01T12:00:0{shard or 0}.000Z",
        tally=Tally(worker=worker) if worker else None,
    )
    store.write(keys.progress(RUN, STAGE, shard), said.to_json())


def asked(folder: Path, shards: int) -> Progress | None:
    knowledge = Knowledge(folder.as_uri(), folder / "cache")
    reports = asyncio.run(knowledge.progress("default", RUN, {"job": (STAGE, shards)})).get("job")
    return reports.together if reports else None


def test_a_store_that_does_not_answer_is_away_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        knowledge = Knowledge("s3://bucket/prefix", tmp_path, answer_seconds=0.2)
        with pytest.raises(StoreUnavailable, match=r"s3://bucket/prefix has not answered for 0\.2 s"):
            asyncio.run(knowledge.manifests("default", [STAGE]))


@pytest.mark.slow
def test_an_operator_that_waits_for_a_silent_store_ends_within_its_grace_period(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, FakeApi() as api:
        environment = {
            "EVOLUTION_S3_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        api.write_kubeconfig(tmp_path / "kubeconfig")
        api.client.create(NAMESPACES, {"metadata": {"name": "team-a"}}, "")
        with running_operator(tmp_path / "kubeconfig", "s3://bucket", tmp_path, environment=environment) as operator:
            api.client.create(RUNS, {"metadata": {"name": "demo"}, "spec": MINIMAL}, "team-a")
            silent.accept()
            began = time.monotonic()
            assert operator.stop() == 0
            assert time.monotonic() - began < 20  # of the 30 seconds that a pod gets


def test_a_silent_worker_has_no_progress(tmp_path: Path) -> None:
    assert asked(tmp_path, 1) is None
    assert asked(tmp_path, 3) is None


def test_progress_of_one_worker_is_what_it_said(tmp_path: Path) -> None:
    report(FolderStore(tmp_path / "default"), 3, 10)
    found = asked(tmp_path, 1)
    assert found is not None
    assert (found.done, found.total, found.fingerprint) == (3, 10, STAGE)


def test_progress_of_workers_that_share_a_stage_is_added_up(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "default")
    report(store, 5, 10, shard=0, eta=2.0)
    report(store, 1, 10, shard=2, eta=9.0)
    found = asked(tmp_path, 3)
    assert found is not None
    assert (found.done, found.total, found.eta_seconds) == (6, 30, 9.0)


def test_each_worker_that_shares_a_stage_is_heard_by_its_name(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "default")
    report(store, 5, 10, shard=0, worker="pod-0-x")
    report(store, 1, 10, shard=2, worker="pod-2-y")
    knowledge = Knowledge(tmp_path.as_uri(), tmp_path / "cache")
    reports = asyncio.run(knowledge.progress("default", RUN, {"job": (STAGE, 3)}))["job"]
    assert {name: said.done for name, said in reports.by_worker.items()} == {"pod-0-x": 5, "pod-2-y": 1}


def test_every_question_is_counted_with_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, str]] = []
    knowledge = Knowledge(tmp_path.as_uri(), tmp_path, asked=lambda operation, code: counted.append((operation, code)))
    asyncio.run(knowledge.manifests("default", [STAGE, "b" * 64]))
    asyncio.run(knowledge.recall("default", RUN, "uid"))
    assert counted == [("manifest", "ok"), ("manifest", "ok"), ("history_read", "ok")]
    counted.clear()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        deaf = Knowledge(
            "s3://bucket", tmp_path, answer_seconds=0.2, asked=lambda operation, code: counted.append((operation, code))
        )
        with pytest.raises(StoreUnavailable):
            asyncio.run(deaf.progress("default", RUN, {"job": (STAGE, 1)}))
    assert counted == [("progress", "timeout")]
