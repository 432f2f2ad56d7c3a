"""Fixtures for every test."""

import os
import signal
from collections.abc import Iterator

import pytest
from controlplane.fixtures import control_plane, namespace, process_node, simulated_nodes  # noqa: F401 - fixtures
from hypothesis import settings
from minio_server import MinioBucket, MinioServer
from minio_server import minio_server as running_minio
from tools.build import Unavailable, binary

# Shells start jobs in the background with SIGINT ignored, and programs that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline for one example says how busy the machine is, not whether the code is right.
settings.register_profile("evolution", deadline=None)
settings.load_profile("evolution")


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    try:
        program = binary("minio")
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    with running_minio(program, tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture
def minio(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> MinioBucket:
    for name, value in minio_server.environment.items():
        monkeypatch.setenv(name, value)
    return MinioBucket(minio_server, minio_server.new_bucket())
