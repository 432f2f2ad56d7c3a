"""Fixtures for every test."""

import os
import signal
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from controlplane.fixtures import control_plane, namespace, process_node, simulated_nodes  # noqa: F401 - fixtures
from hypothesis import settings
from minio_server import MinioBucket, MinioServer
from minio_server import minio_server as running_minio
from prometheus_server import PrometheusServer, StartPrometheus, Target, prometheus_server
from tools.build import Unavailable, binary

# Shells start jobs in the background with SIGINT ignored, and programs that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline for one example says how busy the machine is, not whether the code is right.
settings.register_profile("evolution", deadline=None)
settings.load_profile("evolution")


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    with running_minio(_program("minio"), tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture
def minio(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> MinioBucket:
    for name, value in minio_server.environment.items():
        monkeypatch.setenv(name, value)
    return MinioBucket(minio_server, minio_server.new_bucket())


@pytest.fixture(scope="session")
def prometheus_program() -> Path:
    return _program("prometheus")


@pytest.fixture
def start_prometheus(prometheus_program: Path, tmp_path: Path) -> Iterator[StartPrometheus]:
    """Starts a Prometheus as `prometheus_server` does, with its files in the test's folder; stopped after the test."""
    with ExitStack() as running:

        def start(targets: Sequence[Target], rules: Sequence[Path] = (), interval: float = 1.0) -> PrometheusServer:
            folder = tmp_path / f"prometheus-{uuid.uuid4().hex[:8]}"
            return running.enter_context(prometheus_server(prometheus_program, folder, targets, rules, interval))

        yield start


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The program that checks rules and runs their tests."""
    return _program("promtool")


@pytest.fixture(scope="session")
def kubectl() -> Path:
    return _program("kubectl")


def _program(tool: str) -> Path:
    try:
        return binary(tool)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
