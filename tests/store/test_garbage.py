"""Garbage is what no kept manifest reaches, and only once it is old."""

import os
import time
from pathlib import Path

import pytest

from evolution.plan.manifest import Artifact, Manifest
from evolution.plan.stage import Kind, sha256
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged, Artifacts
from evolution.store.folder import PARTIAL, FolderStore
from evolution.store.garbage import GRACE, UNFINISHED_GRACE, Garbage, collect, remove
from evolution.store.parts import Parts

KEPT, DROPPED = "aa" * 32, "bb" * 32


def put(artifacts: Artifacts, tmp_path: Path, text: str) -> Artifact:
    file = tmp_path / "file"
    file.write_text(text)
    return artifacts.put_file(file)


def put_tree(artifacts: Artifacts, tmp_path: Path, **files: str) -> Artifact:
    folder = tmp_path / f"tree-{'-'.join(files.values())}"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return artifacts.put_tree(folder)


def commit(artifacts: Artifacts, fingerprint: str, **outputs: Artifact) -> None:
    artifacts.commit(
        Manifest(
            fingerprint=fingerprint,
            kind=Kind.TRAIN,
            semantics=1,
            round=1,
            parameters={},
            inputs={},
            outputs=outputs,
            metrics={},
        )
    )


def commit_part(artifacts: Artifacts, fingerprint: str, shard: int, **outputs: Artifact) -> None:
    part = Manifest(
        fingerprint=fingerprint,
        kind=Kind.GENERATE,
        semantics=1,
        round=1,
        parameters={},
        inputs={},
        outputs=outputs,
        metrics={},
    )
    Parts(artifacts, fingerprint, 3).commit(shard, part)


def age(store: FolderStore, seconds: float = 2 * GRACE) -> None:
    """Make every object of the store look older."""
    then = time.time() - seconds
    for found in store.list(""):
        os.utime(store.path(found.key), (then, then))


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def old(folder: FolderStore, tmp_path: Path) -> Artifacts:
    """Two finished stages that share the blob `shared`, and an orphan; all of it old."""
    artifacts = Artifacts(folder, tmp_path / "cache")
    commit(
        artifacts,
        KEPT,
        log=put(artifacts, tmp_path, "log"),
        adapter=put_tree(artifacts, tmp_path, a="shared", b="kept"),
    )
    commit(
        artifacts,
        DROPPED,
        log=put(artifacts, tmp_path, "old log"),
        adapter=put_tree(artifacts, tmp_path, a="shared", b="dropped"),
    )
    put(artifacts, tmp_path, "orphan")
    age(folder)
    return artifacts


def test_what_only_forgotten_stages_reach_is_garbage_also_through_trees(artifacts: Artifacts, tmp_path: Path) -> None:
    kept = put_tree(artifacts, tmp_path, a="shared", b="kept")
    dropped = put_tree(artifacts, tmp_path, a="shared", b="dropped")
    commit(artifacts, KEPT, adapter=kept)
    commit(artifacts, DROPPED, adapter=dropped)
    before = {found.key: found.size for found in artifacts.store.list("")}

    garbage = collect(artifacts, [KEPT], grace=-60)
    assert garbage.manifests == (DROPPED,)
    assert {*garbage.blobs} == {dropped.digest, sha256(b"dropped")}
    assert {found.key: found.size for found in artifacts.store.list("")} == before

    assert remove(artifacts, garbage, grace=-60) == garbage
    gone = {keys.manifest(DROPPED), keys.blob(dropped.digest), keys.blob(sha256(b"dropped"))}
    assert {found.key for found in artifacts.store.list("")} == before.keys() - gone
    assert garbage.bytes == sum(before[key] for key in gone)
    assert artifacts.fetch_tree(kept.digest)
    assert collect(artifacts, [KEPT], grace=-60) == Garbage((), (), 0)


def test_an_orphan_is_garbage_once_it_is_old(old: Artifacts, tmp_path: Path) -> None:
    young = put(old, tmp_path, "a running worker's")
    garbage = collect(old, [KEPT, DROPPED])
    assert garbage == Garbage((), (sha256(b"orphan"),), len("orphan"))
    remove(old, garbage)
    assert old.fetch(young.digest)


def test_a_stage_that_has_just_finished_is_kept_with_its_old_blobs_although_nobody_asked(
    old: Artifacts, folder: FolderStore
) -> None:
    os.utime(folder.path(keys.manifest(DROPPED)))
    assert collect(old, [KEPT]) == Garbage((), (sha256(b"orphan"),), len("orphan"))


def test_a_blob_that_a_worker_has_put_again_since_is_not_removed(old: Artifacts, tmp_path: Path) -> None:
    garbage = collect(old, [KEPT])
    assert sha256(b"old log") in garbage.blobs
    put(old, tmp_path, "old log")
    removed = remove(old, garbage)
    assert {*garbage.blobs} - {*removed.blobs} == {sha256(b"old log")}
    assert old.fetch(sha256(b"old log"))


def test_nothing_is_called_garbage_where_a_kept_stage_cannot_be_read(old: Artifacts, folder: FolderStore) -> None:
    folder.write(keys.manifest(KEPT), b"{")
    with pytest.raises(ArtifactDamaged, match="is not a manifest"):
        collect(old, [KEPT])


def test_a_kept_stage_that_has_not_run_yet_is_no_obstacle(old: Artifacts) -> None:
    assert collect(old, [KEPT, DROPPED, "cc" * 32]).manifests == ()


def test_files_that_are_no_objects_of_ours_and_state_of_runs_are_left_alone(
    old: Artifacts, folder: FolderStore
) -> None:
    for key in ("stages/README", "blobs/sha256/aa/short", "runs/a-12345678/history.json"):
        folder.write(key, b"x")
    age(folder)
    remove(old, collect(old, []))
    assert [found.key for found in folder.list("")] == [
        "blobs/sha256/aa/short",
        "runs/a-12345678/history.json",
        "stages/README",
    ]


def test_what_crashes_left_behind_is_removed_as_well(old: Artifacts, folder: FolderStore) -> None:
    left = folder.path("stages").parent / PARTIAL / "left"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    folder.write("probe/left", b"")
    os.utime(folder.path("probe/left"), (0, 0))
    remove(old, collect(old, [KEPT, DROPPED]))
    assert not left.exists()
    assert list(folder.list("probe/")) == []


def test_parts_of_a_stage_that_is_not_done_yet_are_kept_with_their_blobs(folder: FolderStore, tmp_path: Path) -> None:
    artifacts = Artifacts(folder, tmp_path / "cache")
    commit_part(artifacts, DROPPED, 0, answers=put(artifacts, tmp_path, "answers of an early shard"))
    age(folder)
    assert collect(artifacts, []) == Garbage((), (), 0)

    age(folder, UNFINISHED_GRACE + 60)
    commit_part(artifacts, DROPPED, 1, answers=put(artifacts, tmp_path, "answers of a late shard"))
    assert collect(artifacts, []) == Garbage((), (), 0)


def test_parts_of_a_stage_that_is_done_or_given_up_are_garbage(folder: FolderStore, tmp_path: Path) -> None:
    artifacts = Artifacts(folder, tmp_path / "cache")
    commit_part(artifacts, KEPT, 0, answers=put(artifacts, tmp_path, "done"))
    commit(artifacts, KEPT)
    age(folder)
    removed = remove(artifacts, collect(artifacts, [KEPT]))
    assert (removed.unfinished, removed.blobs) == ((keys.part(KEPT, 0, 3),), (sha256(b"done"),))

    commit_part(artifacts, DROPPED, 2, answers=put(artifacts, tmp_path, "given up"))
    age(folder, UNFINISHED_GRACE + 60)
    removed = remove(artifacts, collect(artifacts, [KEPT]))
    assert removed.unfinished == (keys.part(DROPPED, 2, 3),)
    assert removed.blobs == (sha256(b"given up"),)
    assert [found.key for found in folder.list("")] == [keys.manifest(KEPT)]


def test_checkpoints_and_progress_of_a_stage_that_is_not_done_yet_are_kept_for_a_week(
    folder: FolderStore, tmp_path: Path
) -> None:
    artifacts = Artifacts(folder, tmp_path / "cache")
    listing = f"{keys.checkpoints('a-12345678', DROPPED)}training/1.json"
    for key in (keys.progress("a-12345678", DROPPED), f"{keys.checkpoints('a-12345678', DROPPED)}training/files/f"):
        folder.write(key, b"x")
    age(folder, UNFINISHED_GRACE + 60)
    folder.write(listing, b"{}")
    assert collect(artifacts, []) == Garbage((), (), 0)

    age(folder, UNFINISHED_GRACE + 60)
    garbage = collect(artifacts, [])
    assert {*garbage.unfinished} == {found.key for found in folder.list("")}
    assert garbage.bytes == 4
    folder.write(listing, b"{}")
    assert listing not in remove(artifacts, garbage).unfinished, "a worker has gone on since"
    assert [found.key for found in folder.list("")] == [listing]


def test_checkpoints_of_a_stage_that_is_done_go_and_the_runs_own_things_stay(
    folder: FolderStore, tmp_path: Path
) -> None:
    artifacts = Artifacts(folder, tmp_path / "cache")
    commit(artifacts, KEPT)
    left = [f"{keys.checkpoints('a-12345678', KEPT)}0-of-3/questions/c", keys.progress("a-12345678", KEPT, 2)]
    for key in (*left, keys.history("a-12345678"), "runs/a-12345678/progress/README"):
        folder.write(key, b"x")
    age(folder)
    assert {*remove(artifacts, collect(artifacts, [KEPT])).unfinished} == {*left}
    stay = [keys.history("a-12345678"), "runs/a-12345678/progress/README", keys.manifest(KEPT)]
    assert [found.key for found in folder.list("")] == stay
