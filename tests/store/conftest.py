"""The two stores that must behave alike, and an S3 server that misbehaves on request."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from minio_server import MinioBucket

from evolution.store.artifacts import Artifacts
from evolution.store.base import ObjectStore
from evolution.store.open import open_store


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.minio)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store: in a folder, and below a prefix on a real MinIO server."""
    if request.param == "folder":
        return open_store((tmp_path / "store" / "team-a").as_uri())
    bucket: MinioBucket = request.getfixturevalue("minio")
    return open_store(f"{bucket.uri}/evolution/team-a")


@pytest.fixture
def artifacts(store: ObjectStore, tmp_path: Path) -> Artifacts:
    return Artifacts(store, tmp_path / "cache")


@pytest.fixture
def proxy(minio: MinioBucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Stands between the store and the real server; the environment names it as the endpoint."""
    with FaultyProxy(minio.server.endpoint) as proxy:
        monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", proxy.endpoint)
        yield proxy
