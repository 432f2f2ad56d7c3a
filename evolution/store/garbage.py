"""What no kept run needs any more, and its removal.

Workers may be writing meanwhile: what is younger than a grace period is left alone, and so is all that it refers to.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evolution.plan.manifest import Manifest
from evolution.store import keys
from evolution.store.artifacts import REFRESH_AFTER, Artifacts
from evolution.store.base import ObjectInfo
from evolution.store.folder import FolderStore
from evolution.store.parts import read_part

GRACE = 3600.0
"""Seconds; longer than REFRESH_AFTER, else blobs that a worker found in place could be taken from it."""
assert GRACE > REFRESH_AFTER
UNFINISHED_GRACE = 7 * 86_400.0
"""Seconds since an unfinished stage was last gone on with, until what its workers have left is given up."""


@dataclass(frozen=True)
class Garbage:
    """Objects of a store that nothing kept refers to."""

    manifests: tuple[str, ...]
    """Fingerprints."""
    blobs: tuple[str, ...]
    """Digests."""
    bytes: int
    """Size of all of them."""
    unfinished: tuple[str, ...] = ()
    """Keys of parts, checkpoints and progress of stages that are done or given up."""


def collect(artifacts: Artifacts, keep: Iterable[str], *, grace: float = GRACE) -> Garbage:
    """Manifests that are not in `keep` (fingerprints), and blobs that no kept manifest reaches, also through trees.

    Only looks. Objects modified within the last `grace` seconds are never garbage, nor are the parts of a stage that
    is not done, with their blobs, nor its checkpoints and progress, within `UNFINISHED_GRACE` of the last of them.

    Raises:
        ArtifactDamaged: a kept manifest or listing cannot be read, so that what it needs is not known.
    """
    # Blobs before manifests: whatever was committed in between is found, and its blobs with it.
    now = time.time()
    blobs = {digest: blob for blob in artifacts.store.list(keys.BLOBS) if (digest := keys.digest_of(blob.key))}
    parts, at_work = _parts(artifacts), _at_work(artifacts)
    kept = {*keep}
    manifests: dict[str, ObjectInfo] = {}
    reached: set[str] = set()
    done: set[str] = set()
    for found in artifacts.store.list(keys.STAGES):
        fingerprint = keys.fingerprint_of(found.key)
        if fingerprint is None:
            continue
        done.add(fingerprint)
        if fingerprint not in kept and now - found.modified >= grace:
            manifests[fingerprint] = found
        elif manifest := artifacts.manifest(fingerprint):
            reached.update(_digests(artifacts, manifest))
    old: list[ObjectInfo] = []

    def given_up(fingerprint: str, left: list[ObjectInfo]) -> bool:
        idle = now - max(found.modified for found in left)
        return idle >= (grace if fingerprint in done else max(grace, UNFINISHED_GRACE))

    for (_, fingerprint), left in at_work.items():
        if given_up(fingerprint, left):
            old += left
    for fingerprint, of_stage in parts.items():
        if given_up(fingerprint, of_stage):
            old += of_stage
        else:
            reached.update(digest for part in of_stage for digest in _digests_of_part(artifacts, part))
    unreached = {d: blob for d, blob in blobs.items() if d not in reached and now - blob.modified >= grace}
    size = sum(found.size for found in (*manifests.values(), *unreached.values(), *old))
    return Garbage(tuple(manifests), tuple(unreached), size, tuple(found.key for found in old))


def remove(artifacts: Artifacts, garbage: Garbage, *, grace: float = GRACE) -> Garbage:
    """Remove what `collect` found, unless it was written again since; what was removed."""
    # Manifests first: one without its blobs would be a promise that the store cannot keep.
    manifests, blobs, unfinished, size = [], [], [], 0
    for key in garbage.unfinished:
        if found := _still_old(artifacts, key, grace):
            artifacts.store.delete(key)
            unfinished.append(key)
            size += found.size
    for fingerprint in garbage.manifests:
        if found := _still_old(artifacts, keys.manifest(fingerprint), grace):
            artifacts.forget(fingerprint)
            manifests.append(fingerprint)
            size += found.size
    for digest in garbage.blobs:
        if found := _still_old(artifacts, keys.blob(digest), grace):
            artifacts.store.delete(found.key)
            blobs.append(digest)
            size += found.size
    for probe in artifacts.store.list(keys.PROBE):
        if time.time() - probe.modified >= grace:
            artifacts.store.delete(probe.key)
    if isinstance(artifacts.store, FolderStore):
        artifacts.store.remove_partial(grace)
    return Garbage(tuple(manifests), tuple(blobs), size, tuple(unfinished))


def _parts(artifacts: Artifacts) -> dict[str, list[ObjectInfo]]:
    """The parts there are, by fingerprint of their stage."""
    parts: dict[str, list[ObjectInfo]] = {}
    for found in artifacts.store.list(keys.PARTS):
        if fingerprint := keys.stage_of_part(found.key):
            parts.setdefault(fingerprint, []).append(found)
    return parts


def _at_work(artifacts: Artifacts) -> dict[tuple[str, str], list[ObjectInfo]]:
    """Checkpoints and progress, by run and by fingerprint of their stage."""
    left: dict[tuple[str, str], list[ObjectInfo]] = {}
    for found in artifacts.store.list(keys.RUNS):
        if stage := keys.at_work(found.key):
            left.setdefault(stage, []).append(found)
    return left


def _digests_of_part(artifacts: Artifacts, found: ObjectInfo) -> list[str]:
    data = artifacts.store.read(found.key)
    part = read_part(data) if data is not None else None
    return [*_digests(artifacts, part)] if part else []


def _digests(artifacts: Artifacts, manifest: Manifest) -> Iterator[str]:
    for output in manifest.outputs.values():
        yield output.digest
        if output.form == "Tree":
            yield from (file.digest for file in artifacts.tree(output.digest).files)


def _still_old(artifacts: Artifacts, key: str, grace: float) -> ObjectInfo | None:
    found = artifacts.store.stat(key)
    return found if found and time.time() - found.modified >= grace else None
