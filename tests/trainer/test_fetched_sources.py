"""A worker whose sources lie in a bucket: it says how far their download is, and keeps them for others."""

from pathlib import Path

import pytest
from minio_server import MinioBucket
from small_run import QUICKSTART
from worker_process import Said, Workshop, order_stage

from evolution.plan.stage import Kind
from evolution.plan.worker import Progress

pytestmark = pytest.mark.minio


@pytest.fixture
def bucket(minio: MinioBucket) -> MinioBucket:
    for file in [*(QUICKSTART / "model").iterdir(), QUICKSTART / "questions.jsonl"]:
        minio.server.client.fput_object(minio.bucket, f"quickstart/{file.name}", str(file))
    return minio


def phases(said: Said) -> dict[str, Progress]:
    """The last that was said of everything that was counted."""
    return {event.phase: event for event in said.events if isinstance(event, Progress)}


def test_a_worker_tells_how_far_its_downloads_are_and_a_second_one_has_none(
    bucket: MinioBucket, tmp_path: Path
) -> None:
    shop = Workshop(tmp_path, QUICKSTART / "model")
    model = {"source": "Model", "uri": f"{bucket.uri}/quickstart", "revision": ""}
    items = {"source": "Evaluation", "uri": f"{bucket.uri}/quickstart/questions.jsonl", "revision": ""}
    stages = order_stage(Kind.PREPARE, model, "prepare-model"), order_stage(Kind.PREPARE, items, "prepare-evaluation")
    order = shop.order(*stages).model_copy(update={"model": f"{bucket.uri}/quickstart"})

    first = shop.pod(order)
    assert list(first.committed) == ["prepare-model", "prepare-evaluation"], first.errors
    told = phases(first)
    download = told["MB downloaded"]
    assert download.done == download.total > 0
    assert download.note.endswith(f"of {len(list((QUICKSTART / 'model').iterdir())) + 1} files")
    assert told["files"].done == told["files"].total

    elsewhere = order.model_copy(update={"store": (tmp_path / "another store").as_uri()})
    second = shop.pod(elsewhere)
    assert list(second.committed) == ["prepare-model", "prepare-evaluation"], second.errors
    assert "MB downloaded" not in phases(second)
    assert {name: made.outputs for name, made in second.committed.items()} == {
        name: made.outputs for name, made in first.committed.items()
    }
