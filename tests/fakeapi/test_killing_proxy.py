"""The proxy counts what passes, and disturbs as it is told."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated import MINIMAL

from fakeapi.client import ApiError, Client
from fakeapi.killing_proxy import Fault, KillingProxy
from fakeapi.kinds import RUNS, Body
from fakeapi.server import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


@pytest.fixture
def proxy(api: FakeApi, tmp_path: Path) -> Iterator[KillingProxy]:
    with KillingProxy(api.write_kubeconfig(tmp_path / "upstream")) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: KillingProxy, tmp_path: Path) -> Client:
    return Client.from_kubeconfig(proxy.write_kubeconfig(tmp_path / "kubeconfig"))


def run(name: str = "run") -> Body:
    return {"metadata": {"name": name}, "spec": MINIMAL}


def test_requests_are_counted_by_verb_and_resource(proxy: KillingProxy, client: Client) -> None:
    client.create(RUNS, run())
    client.patch(RUNS, "run", {"status": {"state": "Running"}}, subresource="status")
    client.page(RUNS)
    client.get(RUNS, "run")
    with pytest.raises(ApiError):
        client.create(RUNS, run())
    assert proxy.counters() == {
        "writes": 3,
        "reads": 2,
        "requests": {
            "create evolutionruns": 2,
            "get evolutionruns": 1,
            "list evolutionruns": 1,
            "patch evolutionruns/status": 1,
        },
    }
    assert [(write.number, write.verb, write.name, write.code) for write in proxy.writes[:2]] == [
        (1, "create", "run", 201),
        (2, "patch", "run", 200),
    ]
    assert client.request("GET", "/proxy/counters") == proxy.counters()


def test_a_lost_response_is_of_a_write_that_was_applied(api: FakeApi, proxy: KillingProxy, client: Client) -> None:
    proxy.faults.append(Fault("ResponseLost", verb="create"))
    with pytest.raises(OSError, match=r"closed connection|reset"):
        client.create(RUNS, run())
    assert api.client.get(RUNS, "run")


@pytest.mark.parametrize("code", [409, 429, 500, 503])
def test_a_refused_write_is_not_applied(api: FakeApi, proxy: KillingProxy, client: Client, code: int) -> None:
    proxy.faults.append(Fault("Refused", verb="create", resource="evolution*", code=code))  # type: ignore[arg-type]
    with pytest.raises(ApiError) as refused:
        client.create(RUNS, run())
    assert refused.value.code == code
    assert api.client.items(RUNS) == []
    client.create(RUNS, run())


def test_a_frozen_watch_falls_silent_and_a_cut_one_ends(api: FakeApi, proxy: KillingProxy, client: Client) -> None:
    version = api.client.page(RUNS)["metadata"]["resourceVersion"]
    seen: list[str] = []
    first, second, ended = threading.Event(), threading.Event(), threading.Event()

    def follow() -> None:
        try:
            for _, body in client.watch(RUNS, resourceVersion=version):
                seen.append(body["metadata"]["name"])
                (second if first.is_set() else first).set()
        except (OSError, ValueError):
            pass
        ended.set()

    threading.Thread(target=follow, daemon=True).start()
    api.client.create(RUNS, run("one"))
    assert first.wait(10)
    proxy.frozen.add("evolutionruns")
    api.client.create(RUNS, run("two"))
    assert not second.wait(0.3)
    proxy.frozen.clear()
    assert second.wait(10)
    assert seen == ["one", "two"]
    proxy.cut_watches("evolutionruns")
    assert ended.wait(10)
