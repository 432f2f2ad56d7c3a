"""A run whose artifacts live in MinIO."""

from pathlib import Path
from typing import Any

import pytest
from minio_server import MinioBucket
from small_run import Workplace, small_workplace

pytestmark = pytest.mark.minio


def digests(place: Workplace) -> dict[str, Any]:
    """Output digests by stage, as `evolve plan` and the manifests tell them."""
    return {id_: stage["outputs"] for id_, stage in place.stages().items()}


@pytest.mark.slow
def test_a_run_on_s3_gives_the_same_bytes_as_on_a_folder(tmp_path: Path, minio: MinioBucket) -> None:
    folder = small_workplace(tmp_path)
    assert folder.evolve("run").returncode == 0
    bucket = Workplace(tmp_path, store=f"{minio.uri}/evolution")
    done = bucket.evolve("run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(bucket) == digests(folder)
    assert bucket.evolve("run").stdout.count("11 finished stages are reused") == 1
    assert bucket.evolve("report", "-o", str(tmp_path / "s3.html")).returncode == 0
