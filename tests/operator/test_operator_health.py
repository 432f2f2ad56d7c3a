"""What the operator tells of its own health: how long it takes, and how long ago each kind was last told of."""

import asyncio
from pathlib import Path

import pytest
from fakeapi import kinds
from fakeapi.server import FakeApi
from simulated import MINIMAL

from evolution_operator.cache import Cache
from evolution_operator.gateway import Gateway, GatewayError
from evolution_operator.intake import Intake
from evolution_operator.queue import KeyedQueue
from evolution_operator.records import RunKey
from evolution_operator.resync import Resync
from evolution_operator.watch_news import WatchNews


class Times:
    """Notes of how long things took, and whether they went well."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, bool]] = []

    def __call__(self, seconds: float, ok: bool) -> None:
        self.noted.append((seconds, ok))

    @property
    def went_well(self) -> list[bool]:
        assert all(0 <= seconds < 10 for seconds, _ in self.noted)
        return [ok for _, ok in self.noted]


def test_every_call_of_the_handler_is_timed_whether_it_goes_well_or_not() -> None:
    async def work() -> list[bool]:
        times, both = Times(), asyncio.Event()
        queue: KeyedQueue[str] = KeyedQueue(timed=times)

        async def handler(key: str) -> None:
            if key == "bad":
                raise OSError(key)
            both.set()

        queue.add("bad")
        queue.add("good")
        working = asyncio.create_task(queue.run(handler, workers=1))
        await asyncio.wait_for(both.wait(), 10)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return times.went_well

    assert asyncio.run(work()) == [False, True]


@pytest.fixture
def kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the one that is used is to be written."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path / "kubeconfig"


def test_a_list_speaks_for_a_watch_only_if_it_brings_no_news(kubeconfig: Path) -> None:
    async def work(api: FakeApi) -> None:
        gateway, cache, news, times = await Gateway.connect(), Cache(), WatchNews(), Times()
        queue: KeyedQueue[RunKey] = KeyedQueue()
        resync = Resync(gateway, cache, Intake(cache, queue), watch_news=news, timed=times)
        api.client.create(kinds.RUNS, {"metadata": {"name": "ops"}, "spec": MINIMAL})
        assert await resync.once() == 1
        assert set(news.moments) == {
            "jobs",
            "pods",
            "evolutionruntimes",
            "clusterevolutionruntimes",
            "evolutionschedules",
        }
        assert await resync.once() == 0
        assert "evolutionruns" in news.moments
        before = news.moments["evolutionruns"]
        api.client.patch(kinds.RUNS, "ops", {"spec": {"suspend": True}})
        assert await resync.once() == 1
        assert news.moments["evolutionruns"] == before, "no watch has told of the change"
        assert times.went_well == [True, True, True]
        await gateway.close()

    with FakeApi() as api:
        api.write_kubeconfig(kubeconfig)
        asyncio.run(work(api))


def test_a_list_that_cannot_be_read_is_timed_as_an_error(kubeconfig: Path) -> None:
    with FakeApi() as api:
        api.write_kubeconfig(kubeconfig)

    async def work() -> list[bool]:
        gateway, cache, times = await Gateway.connect(), Cache(), Times()
        resync = Resync(gateway, cache, Intake(cache, KeyedQueue()), timed=times)
        with pytest.raises(GatewayError):
            await resync.once()
        await gateway.close()
        return times.went_well

    assert asyncio.run(work()) == [False]
