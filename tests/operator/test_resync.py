import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bodies import Body
from fakeapi import kinds
from fakeapi.server import FakeApi
from simulated import MINIMAL

from evolution_operator.cache import Cache
from evolution_operator.gateway import JOBSETS, Gateway
from evolution_operator.intake import Intake
from evolution_operator.parse import job_record, run_record, runtime_record
from evolution_operator.queue import KeyedQueue
from evolution_operator.records import RunKey
from evolution_operator.resync import DEAF_ROUNDS, Resync
from evolution_operator.watch_news import WatchNews
from evolution_operator.watches import watched_kinds

LABELS = {"app.kubernetes.io/managed-by": "evolution-operator", "selfevolution.io/run": "ops"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.write_kubeconfig(tmp_path / "kubeconfig")))
        yield fake


class Operator:
    """The part of it that knows the cluster; nothing is reconciled."""

    def __init__(self, gateway: Gateway, *namespaces: str) -> None:
        self.cache = Cache()
        self.queue = KeyedQueue[RunKey]()
        self.intake = Intake(self.cache, self.queue)
        self.news = WatchNews()
        self.resync = Resync(gateway, self.cache, self.intake, namespaces, watch_news=self.news)

    async def handled(self) -> set[RunKey]:
        """The runs that wait to be reconciled, which then wait no longer."""
        seen: set[RunKey] = set()

        async def note(key: RunKey) -> None:
            seen.add(key)

        working = asyncio.create_task(self.queue.run(note, workers=1))
        while self.queue.depth:
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait({working})
        return seen


def with_operator(use: Callable[[Operator], Awaitable[None]], *namespaces: str) -> None:
    async def used() -> None:
        gateway = await Gateway.connect()
        try:
            await use(Operator(gateway, *namespaces))
        finally:
            await gateway.close()

    asyncio.run(used())


def run(cluster: FakeApi, name: str = "ops", namespace: str = "default") -> Body:
    return cluster.client.create(kinds.RUNS, {"metadata": {"name": name}, "spec": MINIMAL}, namespace)


def job(cluster: FakeApi, name: str = "ops-r1-train", **more: Any) -> Body:
    container = {"name": "worker", "image": "x", "command": ["evolution-worker"]}
    body = {
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "suspend": True,
            "template": {"metadata": {"labels": LABELS}, "spec": {"restartPolicy": "Never", "containers": [container]}},
            **more,
        },
    }
    return cluster.client.create(kinds.JOBS, body)


def test_the_first_list_tells_all_there_is_and_the_next_one_nothing(cluster: FakeApi) -> None:
    run(cluster)
    job(cluster)

    async def use(operator: Operator) -> None:
        assert await operator.resync.once() == 2
        assert operator.cache.sizes() == {"runs": 1, "schedules": 0, "runtimes": 0, "jobs": 1, "pods": 0}
        assert await operator.handled() == {("default", "ops")}
        assert await operator.resync.once() == 0
        assert await operator.handled() == set()

    with_operator(use)


def test_more_objects_than_fit_a_chunk_are_all_seen(cluster: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolution_operator.gateway.CHUNK", 3)
    for number in range(10):
        run(cluster, f"run-{number}")

    async def use(operator: Operator) -> None:
        assert await operator.resync.once() == 10

    with_operator(use)


def test_a_deletion_that_no_watch_told_is_noticed(cluster: FakeApi) -> None:
    run(cluster)
    job(cluster)

    async def use(operator: Operator) -> None:
        await operator.resync.once()
        await operator.handled()
        cluster.client.delete(kinds.JOBS, "ops-r1-train", propagationPolicy="Background")
        assert await operator.resync.once() == 1
        assert operator.cache.jobs(RunKey("default", "ops")) == ()
        assert await operator.handled() == {("default", "ops")}

    with_operator(use)


def test_an_object_newer_than_the_list_is_not_taken_for_gone(cluster: FakeApi) -> None:
    made = job_record(job(cluster))

    async def use(operator: Operator) -> None:
        await operator.resync.once()
        created_meanwhile = replace(made, name="ops-r2-train", uid="new", resource_version="999999")
        operator.cache.upsert(created_meanwhile)
        assert await operator.resync.once() == 0
        assert len(operator.cache.jobs(made.run)) == 2

    with_operator(use)


def test_a_cluster_without_jobsets_is_listed_and_watched_without_them(cluster: FakeApi) -> None:
    made = job_record(job(cluster))

    async def use(operator: Operator) -> None:
        assert await operator.resync.once() == 1
        assert operator.resync.absent == {JOBSETS}
        watched = [kind.resource for kind in watched_kinds((), operator.resync.absent)]
        assert JOBSETS not in watched
        assert len(watched) == len(watched_kinds(())) - 1

        operator.cache.upsert(replace(made, kind="JobSet", name="ops-r2-train", uid="of-a-kind-that-was-removed"))
        operator.news.told("jobsets")
        await operator.resync.once()
        assert [known.name for known in operator.cache.jobs(made.run)] == [made.name]
        assert "jobsets" not in operator.news.moments, "nobody waits for news of it"

    with_operator(use)


def test_only_the_given_namespaces_are_listed(cluster: FakeApi) -> None:
    for namespace in ("team", "elsewhere"):
        cluster.client.create(kinds.NAMESPACES, {"metadata": {"name": namespace}})
        run(cluster, namespace=namespace)

    async def use(operator: Operator) -> None:
        await operator.resync.once()
        assert operator.cache.runs() == (("team", "ops"),)
        operator.cache.upsert(run_record({"metadata": {"namespace": "elsewhere", "name": "x", "uid": "x"}}))
        assert await operator.resync.once() == 0, "what lies elsewhere is not taken for gone"

    with_operator(use, "team")


def test_a_changed_runtime_concerns_the_runs_that_name_it(cluster: FakeApi) -> None:
    run(cluster)

    async def use(operator: Operator) -> None:
        await operator.resync.once()
        await operator.handled()
        operator.intake.seen(runtime_record({"metadata": {"name": "default", "uid": "r", "resourceVersion": "999"}}))
        assert await operator.handled() == {("default", "ops")}
        other = {"metadata": {"name": "other", "uid": "o", "resourceVersion": "999"}}
        operator.intake.seen(runtime_record(other))
        assert await operator.handled() == set()

    with_operator(use)


def test_our_own_status_seen_before_its_answer_is_no_reason_to_reconcile_again(cluster: FakeApi) -> None:
    body = run(cluster)

    async def use(operator: Operator) -> None:
        calls = 0

        async def reconcile(key: RunKey) -> None:  # noqa: ARG001
            nonlocal calls
            calls += 1
            if calls == 1:
                metadata = {**body["metadata"], "resourceVersion": "998"}
                operator.intake.seen(run_record({**body, "metadata": metadata, "status": {"summary": "Running"}}))
            if calls == 2:
                edited = {**body["metadata"], "resourceVersion": "999", "generation": 2}
                operator.intake.seen(run_record({**body, "metadata": edited}))

        await operator.resync.once()
        working = asyncio.create_task(operator.queue.run(reconcile, workers=2))
        while operator.queue.depth or operator.queue.is_busy(RunKey("default", "ops")):
            await asyncio.sleep(0)
        assert calls == 1
        operator.queue.add(RunKey("default", "ops"))
        while operator.queue.depth or operator.queue.is_busy(RunKey("default", "ops")):
            await asyncio.sleep(0)
        assert calls == 3, "the edit was made while the second call was under way"
        working.cancel()
        await asyncio.wait({working})

    with_operator(use)


def test_watches_that_stay_silent_while_lists_bring_news_are_dead(cluster: FakeApi) -> None:
    async def use(operator: Operator) -> None:
        await operator.resync.once()
        for number in range(DEAF_ROUNDS):
            assert not operator.resync.watches_are_dead
            run(cluster, f"run-{number}")
            await operator.resync.once()
        assert operator.resync.watches_are_dead
        await operator.resync.once()
        assert not operator.resync.watches_are_dead

    with_operator(use)
