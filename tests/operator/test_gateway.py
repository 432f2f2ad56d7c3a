import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
from bodies import Body
from controlplane.client import object_path
from controlplane.plane import ControlPlane
from fakeapi.server import FakeApi, write_kubeconfig
from simulated import MINIMAL

from evolution_operator import gateway as api
from evolution_operator.gateway import (
    JOBS,
    LEASES,
    PODS,
    RUNS,
    AlreadyExists,
    Conflict,
    Forbidden,
    Gateway,
    GatewayError,
    Invalid,
    NoAccess,
    NotFound,
    Unavailable,
)

T = TypeVar("T")
LEASE: Body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one"}, "spec": {}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.write_kubeconfig(tmp_path / "kubeconfig")))
        for name in ("team", "elsewhere"):
            fake.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield fake


@pytest.fixture
def real_cluster(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    return control_plane


def with_gateway(use: Callable[[Gateway], Awaitable[T]]) -> T:
    async def used() -> T:
        gateway = await Gateway.connect()
        try:
            return await use(gateway)
        finally:
            await gateway.close()

    return asyncio.run(used())


def run(name: str) -> Body:
    return {
        "apiVersion": "selfevolution.io/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"name": name, "labels": {"half": str(sum(map(ord, name)) % 2)}},
        "spec": MINIMAL,
    }


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Answers every request in its own way; the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()


def failing(code: int, body: bytes, headers: dict[str, str] | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def error_of(code: int, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **headers: str) -> GatewayError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with server(failing(code, body, named)) as url:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", url)))
        with pytest.raises(GatewayError) as raised:
            with_gateway(lambda gateway: gateway.create(JOBS, "team", {}))
    return raised.value


def test_an_object_is_created_read_and_deleted(cluster: FakeApi) -> None:  # noqa: ARG001
    async def use(gateway: Gateway) -> None:
        assert await gateway.get(RUNS, "team", "ops") is None
        made = await gateway.create(RUNS, "team", run("ops"))
        assert made["metadata"]["uid"]
        assert await gateway.get(RUNS, "team", "ops") == made
        assert not await gateway.delete(RUNS, "team", "ops", "another-uid")
        assert await gateway.delete(RUNS, "team", "ops", made["metadata"]["uid"])
        assert not await gateway.delete(RUNS, "team", "ops", made["metadata"]["uid"])
        assert gateway.requests["get", "evolutionruns", 200] == 1
        assert gateway.requests["get", "evolutionruns", 404] == 1
        assert gateway.requests["create", "evolutionruns", 201] == 1

    with_gateway(use)


def test_a_name_that_is_taken_is_told_from_a_version_that_is_old(cluster: FakeApi) -> None:  # noqa: ARG001
    async def use(gateway: Gateway) -> None:
        made = await gateway.create(RUNS, "team", run("ops"))
        with pytest.raises(AlreadyExists, match="ops"):
            await gateway.create(RUNS, "team", run("ops"))
        version = made["metadata"]["resourceVersion"]
        first = await gateway.patch_status(RUNS, "team", "ops", {"status": {"summary": "Running"}}, version)
        assert first["status"] == {"summary": "Running"}
        assert first["spec"] == made["spec"]
        with pytest.raises(Conflict):
            await gateway.patch_status(RUNS, "team", "ops", {"status": {"summary": "Failed"}}, version)
        with pytest.raises(NotFound, match="gone"):
            await gateway.patch_status(RUNS, "team", "gone", {"status": {}}, version)

    with_gateway(use)


def test_null_in_a_status_patch_removes_a_field(cluster: FakeApi) -> None:  # noqa: ARG001
    async def use(gateway: Gateway) -> None:
        version = (await gateway.create(RUNS, "team", run("ops")))["metadata"]["resourceVersion"]
        both = {"summary": "Running", "historyURI": "x"}
        written = await gateway.patch_status(RUNS, "team", "ops", {"status": both}, version)
        version = written["metadata"]["resourceVersion"]
        written = await gateway.patch_status(RUNS, "team", "ops", {"status": {"historyURI": None}}, version)
        assert written["status"] == {"summary": "Running"}

    with_gateway(use)


def test_a_list_comes_in_chunks_of_one_version_filtered_by_the_server(cluster: FakeApi) -> None:  # noqa: ARG001
    async def use(gateway: Gateway) -> None:
        for number in range(7):
            await gateway.create(RUNS, "team", run(f"run-{number}"))
        await gateway.create(RUNS, "elsewhere", run("run-9"))
        pages = [page async for page in gateway.pages(RUNS, "team", limit=3)]
        assert [len(page.items) for page in pages] == [3, 3, 1]
        assert len({page.resource_version for page in pages}) == 1
        assert len([item async for item in gateway.list(RUNS)]) == 8
        even = [item["metadata"]["name"] async for item in gateway.list(RUNS, "team", "half=0")]
        assert len(even) in (3, 4)

    with_gateway(use)


def test_many_requests_share_connections(cluster: FakeApi) -> None:  # noqa: ARG001
    async def use(gateway: Gateway) -> None:
        await asyncio.gather(*(gateway.create(RUNS, "team", run(f"run-{number}")) for number in range(50)))
        assert gateway.requests["create", "evolutionruns", 201] == 50

    with_gateway(use)


def status_body(message: str, **more: Any) -> bytes:
    return json.dumps({"kind": "Status", "message": message, **more}).encode()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((code, Invalid) for code in (400, 405, 413, 415, 422)),
        *((code, Forbidden) for code in (401, 403)),
        *((code, Unavailable) for code in (408, 410, 429, 500, 502, 503, 504)),
        (404, NotFound),
        (409, Conflict),
    ],
)
def test_every_refusal_has_a_kind_and_says_what_the_server_said(
    code: int, kind: type[GatewayError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(code, status_body("because of this"), tmp_path, monkeypatch)
    assert type(error) is kind
    assert "because of this" in str(error)
    assert "create /apis/batch/v1/namespaces/team/jobs" in str(error)


def test_a_busy_server_says_how_long_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of(429, b"", tmp_path, monkeypatch, Retry_After="7")
    assert isinstance(error, Unavailable)
    assert error.retry_after == 7
    error = error_of(500, status_body("etcd", details={"retryAfterSeconds": 2}), tmp_path, monkeypatch)
    assert isinstance(error, Unavailable)
    assert error.retry_after == 2


def test_an_answer_that_is_no_json_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(error_of(200, b"<html>", tmp_path, monkeypatch), Unavailable)
    assert "Bad Gateway" in str(error_of(502, b"Bad Gateway", tmp_path, monkeypatch))


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")))
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        with_gateway(lambda gateway: gateway.get(PODS, "team", "x"))


def test_a_server_that_hangs_up_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.wfile.close()

    with server(hang_up) as url:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", url)))
        with pytest.raises(Unavailable):
            with_gateway(lambda gateway: gateway.create(JOBS, "team", {}))


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(api, "_TIMEOUT", api.aiohttp.ClientTimeout(total=0.2))
    with server(lambda _: released.wait(30) and None) as url:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", url)))
        try:
            with pytest.raises(Unavailable, match="no answer"):
                with_gateway(lambda gateway: gateway.get(PODS, "team", "x"))
        finally:
            released.set()


@pytest.mark.parametrize("content", [None, "", "not: [yaml", "clusters: 3", "current-context: none"])
def test_without_a_usable_kubeconfig_there_is_no_access(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(NoAccess, match="kubeconfig"):
        with_gateway(lambda gateway: gateway.get(PODS, "team", "x"))


@pytest.mark.controlplane
def test_a_real_api_server_answers_as_expected(real_cluster: ControlPlane, namespace: str) -> None:  # noqa: ARG001
    async def use(gateway: Gateway) -> None:
        made = await gateway.create(LEASES, namespace, LEASE)
        with pytest.raises(AlreadyExists):
            await gateway.create(LEASES, namespace, LEASE)
        with pytest.raises(Invalid, match="Required value"):
            await gateway.create(JOBS, namespace, {"metadata": {"name": "x"}, "spec": {"template": {"spec": {}}}})
        assert not await gateway.delete(LEASES, namespace, "one", "5c6f3c2e-0000-0000-0000-000000000000")
        assert await gateway.delete(LEASES, namespace, "one", made["metadata"]["uid"])
        assert await gateway.get(LEASES, namespace, "one") is None
        pages = [page async for page in gateway.pages(LEASES, namespace, "a=b")]
        assert [page.items for page in pages] == [[]]
        assert pages[0].resource_version.isdigit()
        with pytest.raises(NotFound):
            await gateway.create(
                api.Resource("apis/selfevolution.io/v9", "evolutionruns", "EvolutionRun"), namespace, {}
            )

    with_gateway(use)


@pytest.mark.controlplane
def test_a_token_is_accepted_and_its_rights_are_kept(
    real_cluster: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "visitor"}}
    real_cluster.api.create(object_path("serviceaccounts", "", namespace), account)
    monkeypatch.setenv("KUBECONFIG", str(real_cluster.service_account_kubeconfig(namespace, "visitor")))
    with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:visitor"):
        with_gateway(lambda gateway: gateway.get(LEASES, namespace, "one"))
