"""Artifacts are named by their content, and nothing damaged is handed out, from a folder and from S3 alike."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evolution.plan.manifest import Artifact, Manifest
from evolution.plan.stage import Kind
from evolution.store import keys
from evolution.store.artifacts import REFRESH_AFTER, ArtifactDamaged, Artifacts
from evolution.store.base import ObjectStore
from evolution.store.folder import FolderStore

FINGERPRINT = "ab" * 32
TEXT = b"what a stage computed\n" * 1000
DAMAGE: dict[str, Callable[[ObjectStore, str], None]] = {
    "missing": lambda store, key: store.delete(key),
    "truncated": lambda store, key: store.write(key, (store.read(key) or b"")[:-1]),
    "empty": lambda store, key: store.write(key, b""),
    "changed": lambda store, key: store.write(key, b"#" + (store.read(key) or b"")[1:]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(TEXT)
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "more").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(100_000))
    (folder / "adapter_config.json").write_text("{}")
    (folder / "more" / "notes.md").write_text("# Notes")
    return folder


def manifest(fingerprint: str = FINGERPRINT, attempt: int = 1, **outputs: Artifact) -> Manifest:
    return Manifest(
        fingerprint=fingerprint,
        kind=Kind.TRAIN,
        semantics=1,
        round=1,
        parameters={"seed": 7},
        inputs={"model": "cd" * 32},
        outputs=outputs,
        metrics={"loss": 0.5},
        attempt=attempt,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_file_is_stored_under_its_digest_and_fetched_by_it(artifacts: Artifacts, file: Path) -> None:
    artifact = artifacts.put_file(file, count=1000)
    digest = hashlib.sha256(TEXT).hexdigest()
    assert artifact == Artifact(digest=digest, size=len(TEXT), count=1000, form="Blob")
    assert artifacts.fetch(digest).read_bytes() == TEXT
    assert artifacts.fetch(digest) == artifacts.fetch(digest)
    assert [found.key for found in artifacts.store.list("")] == [f"blobs/sha256/{digest[:2]}/{digest}"]


def test_a_folder_becomes_a_tree_and_the_tree_a_folder_again(artifacts: Artifacts, adapter: Path) -> None:
    artifact = artifacts.put_tree(adapter)
    assert (artifact.form, artifact.count, artifact.size) == ("Tree", 3, 100_000 + 2 + 7)
    fetched = artifacts.fetch_tree(artifact.digest)
    assert contents(fetched) == contents(adapter)
    assert artifacts.fetch_tree(artifact.digest) == fetched


def test_equal_folders_are_the_same_tree_wherever_they_lie(artifacts: Artifacts, adapter: Path, tmp_path: Path) -> None:
    first = artifacts.put_tree(adapter)
    assert artifacts.put_tree(adapter.rename(tmp_path / "elsewhere")) == first


def test_a_blob_that_is_there_is_not_sent_again_unless_old_enough_to_look_forgotten(tmp_path: Path, file: Path) -> None:
    store = FolderStore(tmp_path / "store")
    artifacts = Artifacts(store, tmp_path / "cache")
    stored = store.path(keys.blob(artifacts.put_file(file).digest))
    recently = time.time() - REFRESH_AFTER / 2
    os.utime(stored, (recently, recently))
    artifacts.put_file(file)
    assert stored.stat().st_mtime == pytest.approx(recently)
    os.utime(stored, (0, 0))
    artifacts.put_file(file)
    assert stored.stat().st_mtime > recently


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_blob_is_reported_and_not_used(artifacts: Artifacts, file: Path, damage: str) -> None:
    digest = artifacts.put_file(file).digest
    DAMAGE[damage](artifacts.store, keys.blob(digest))
    with pytest.raises(ArtifactDamaged) as found:
        artifacts.fetch(digest)
    assert (found.value.digest, found.value.key) == (digest, keys.blob(digest))
    assert keys.blob(digest) in str(found.value)
    assert ("is missing in" if damage == "missing" else "damaged or truncated") in found.value.detail


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_or_listing_of_a_tree_is_reported_and_not_used(
    artifacts: Artifacts, adapter: Path, damage: str, tmp_path: Path
) -> None:
    tree = artifacts.put_tree(adapter)
    weights = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    for digest in (weights, tree.digest):
        DAMAGE[damage](artifacts.store, keys.blob(digest))
        with pytest.raises(ArtifactDamaged) as found:
            Artifacts(artifacts.store, tmp_path / f"fresh-{digest}").fetch_tree(tree.digest)
        assert found.value.digest == digest
    assert list(tmp_path.glob("fresh-*/trees/*")) == []


def test_a_damaged_copy_in_the_cache_is_replaced(artifacts: Artifacts, file: Path, adapter: Path) -> None:
    blob, tree = artifacts.put_file(file), artifacts.put_tree(adapter)
    if not isinstance(artifacts.store, FolderStore):  # there the blob is its own copy
        artifacts.fetch(blob.digest).write_bytes(TEXT[:100])
        assert artifacts.fetch(blob.digest).read_bytes() == TEXT
    copy = artifacts.fetch_tree(tree.digest)
    (copy / "adapter_model.safetensors").write_bytes(b"")
    assert contents(artifacts.fetch_tree(tree.digest)) == contents(adapter)
    (copy / "stray").write_bytes(b"")
    assert contents(artifacts.fetch_tree(tree.digest)) == contents(adapter)
    assert [path.name for path in copy.parent.iterdir()] == [tree.digest]


def test_a_tree_cannot_write_outside_its_folder(artifacts: Artifacts, tmp_path: Path) -> None:
    for name in ("../outside", "/tmp/outside", "a/../../outside", "."):
        listing = tmp_path / "listing"
        listing.write_text(f'{{"files":[{{"digest":"{"00" * 32}","name":"{name}","size":1}}]}}')
        with pytest.raises(ArtifactDamaged, match="outside the tree"):
            artifacts.fetch_tree(artifacts.put_file(listing).digest)


def test_a_blob_that_is_no_listing_is_no_tree(artifacts: Artifacts, file: Path) -> None:
    with pytest.raises(ArtifactDamaged, match="is not a listing of files"):
        artifacts.fetch_tree(artifacts.put_file(file).digest)


def test_a_stage_is_committed_once_and_the_second_worker_adopts_the_first(artifacts: Artifacts, file: Path) -> None:
    output = artifacts.put_file(file)
    first, second = manifest(pairs=output), manifest(attempt=2, pairs=output)
    assert artifacts.manifest(FINGERPRINT) is None
    assert artifacts.commit(first) == (first, True)
    assert artifacts.commit(second) == (first, False)
    assert artifacts.manifest(FINGERPRINT) == first


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"fingerprint": "x"}', manifest("cd" * 32).to_json()])
def test_a_damaged_manifest_is_told_by_its_key_and_can_be_forgotten(artifacts: Artifacts, content: bytes) -> None:
    artifacts.store.write(keys.manifest(FINGERPRINT), content)
    for action in (lambda: artifacts.manifest(FINGERPRINT), lambda: artifacts.commit(manifest())):
        with pytest.raises(ArtifactDamaged) as found:
            action()
        assert found.value.key == f"stages/{FINGERPRINT}.json"
    artifacts.forget(FINGERPRINT)
    assert artifacts.manifest(FINGERPRINT) is None
    assert artifacts.commit(manifest()) == (manifest(), True)


def test_verification_names_everything_that_is_damaged_also_what_the_cache_still_has(
    artifacts: Artifacts, file: Path, adapter: Path
) -> None:
    stage = manifest(log=artifacts.put_file(file), adapter=artifacts.put_tree(adapter))
    weights = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert artifacts.verify(stage) == []
    artifacts.fetch(stage.outputs["log"].digest)
    artifacts.fetch_tree(stage.outputs["adapter"].digest)
    DAMAGE["changed"](artifacts.store, keys.blob(weights))
    DAMAGE["truncated"](artifacts.store, keys.blob(stage.outputs["log"].digest))
    assert {d.digest for d in artifacts.verify(stage)} == {weights, stage.outputs["log"].digest}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_stage_that_is_discarded_can_be_done_again(artifacts: Artifacts, file: Path, damage: str) -> None:
    stage = manifest(pairs=artifacts.put_file(file))
    artifacts.commit(stage)
    digest = stage.outputs["pairs"].digest
    DAMAGE[damage](artifacts.store, keys.blob(digest))
    artifacts.discard(stage, damaged=[d.digest for d in artifacts.verify(stage)])
    assert artifacts.manifest(FINGERPRINT) is None
    artifacts.put_file(file)
    assert artifacts.commit(stage) == (stage, True)
    assert artifacts.fetch(digest).read_bytes() == TEXT
    assert artifacts.verify(stage) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_what_is_no_digest_names_nothing_in_a_store(artifacts: Artifacts, name: str) -> None:
    with pytest.raises(ValueError, match="is not a SHA-256"):
        artifacts.fetch(name)
    with pytest.raises(ValueError, match="is not a SHA-256"):
        artifacts.manifest(name)
