"""What stages leave in a store: blobs named by their content, trees of files, and manifests committed once.

Nothing is handed out before its bytes were compared with the digest that asked for them.
"""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from evolution.plan.manifest import Artifact, Manifest, TreeFile, TreeListing
from evolution.plan.stage import canonical_json, sha256
from evolution.store import keys
from evolution.store.base import ObjectStore
from evolution.store.folder import FolderStore

MANIFEST_BYTES = 8 << 20
"""A manifest has no more."""
REFRESH_AFTER = 1800.0
"""Seconds after which a blob that is there already is uploaded again, so that `garbage` sees that it is in use."""


class ArtifactDamaged(Exception):
    """An object is missing or is not what its name says; the stage that made it has to run again."""

    def __init__(self, digest: str, key: str, detail: str) -> None:
        self.digest = digest
        """Of the blob; empty for a manifest."""
        self.key = key
        self.detail = detail
        super().__init__(f"{key}: {detail}")


class Artifacts:
    """Artifacts in `store`; `cache` is a local folder for downloads, kept by digest."""

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self.store = store
        self._cache = cache

    @property
    def cache(self) -> Path:
        """Local folder that workers share, for what can be fetched or made again."""
        return self._cache

    def put_file(self, path: Path, count: int = 1) -> Artifact:
        """Store a file; one that is there already is not sent again. `count` is its number of rows."""
        digest, size = digest_file(path)
        self._put_blob(digest, size, lambda key: self.store.upload(path, key))
        return Artifact(digest=digest, size=size, count=count)

    def put_tree(self, folder: Path) -> Artifact:
        """Store every file below a folder, and their listing as the blob that stands for the tree."""
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            blob = self.put_file(path)
            files.append(TreeFile(name=path.relative_to(folder).as_posix(), digest=blob.digest, size=blob.size))
        files.sort(key=lambda file: file.name)
        listing = canonical_json(TreeListing(files=tuple(files)).model_dump(mode="json", by_alias=True))
        digest = sha256(listing)
        self._put_blob(digest, len(listing), lambda key: self.store.write(key, listing))
        return Artifact(digest=digest, size=sum(file.size for file in files), count=len(files), form="Tree")

    def fetch(self, digest: str) -> Path:
        """A local file with that content, to be read only.

        Raises:
            ArtifactDamaged: the store has no such blob, or another content under its name.
        """
        key = keys.blob(digest)
        if isinstance(self.store, FolderStore):
            self._check_folder(self.store, digest)
            return self.store.path(key)
        path = self._cache / "blobs" / digest[:2] / digest
        if path.exists() and digest_file(path)[0] == digest:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._aside(path) as partial:
            self._download(digest, partial)
            partial.replace(path)
        return path

    def fetch_tree(self, digest: str) -> Path:
        """A local folder with the files of a tree under their names, to be read only.

        Raises:
            ArtifactDamaged: the listing or a file is missing, or has another content.
        """
        listing = self.tree(digest)
        folder = self._cache / "trees" / digest
        if _holds(folder, listing):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self._aside(folder) as partial:
            for file in listing.files:
                path = partial / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._download(file.digest, path)
            partial.mkdir(exist_ok=True)
            self._replace_folder(partial, folder, listing)
        return folder

    def tree(self, digest: str) -> TreeListing:
        """What a tree consists of.

        Raises:
            ArtifactDamaged: the listing is missing or has another content.
        """
        data = self.fetch(digest).read_bytes()
        key = keys.blob(digest)
        if sha256(data) != digest:
            raise ArtifactDamaged(digest, key, "changed while it was read")
        try:
            listing = TreeListing.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactDamaged(digest, key, "is not a listing of files") from error
        for file in listing.files:
            name = PurePosixPath(file.name)
            if name.is_absolute() or ".." in name.parts or name.as_posix() in {"", "."}:
                raise ArtifactDamaged(digest, key, f"lists {file.name!r}, which lies outside the tree")
        return listing

    def manifest(self, fingerprint: str) -> Manifest | None:
        """The manifest of a finished stage; None if the stage is not done.

        Raises:
            ArtifactDamaged: there is one that cannot be read; `forget` it and the stage runs again.
        """
        key = keys.manifest(fingerprint)
        data = self.store.read(key, MANIFEST_BYTES)
        if data is None:
            return None
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactDamaged("", key, f"is not a manifest: {_first(error)}") from error
        if manifest.fingerprint != fingerprint:
            raise ArtifactDamaged("", key, f"holds the manifest of another stage, {manifest.fingerprint}")
        return manifest

    def commit(self, manifest: Manifest) -> tuple[Manifest, bool]:
        """Declare a stage done, after its outputs were put: the manifest that stands, and whether it is this one.

        Raises:
            ArtifactDamaged: there is a manifest already, and it cannot be read.
        """
        while not self.store.create(keys.manifest(manifest.fingerprint), manifest.to_json()):
            standing = self.manifest(manifest.fingerprint)
            if standing is not None:
                return standing, False
        return manifest, True

    def forget(self, fingerprint: str) -> None:
        """Remove a stage's manifest, so that the stage runs again."""
        self.store.delete(keys.manifest(fingerprint))

    def discard(self, manifest: Manifest, *, damaged: Iterable[str] = ()) -> None:
        """Forget a stage, and remove the `damaged` blobs, given by digest, that keep it from being used."""
        # Blobs first: a damaged one that outlived the manifest would pass for stored when the stage runs again.
        for digest in damaged:
            self.store.delete(keys.blob(digest))
        self.forget(manifest.fingerprint)

    def verify(self, manifest: Manifest) -> list[ArtifactDamaged]:
        """Everything that is wrong in the store with the outputs of a stage; every byte is read."""
        damages: list[ArtifactDamaged] = []
        for output in manifest.outputs.values():
            try:
                self._check(output.digest)
                files = self.tree(output.digest).files if output.form == "Tree" else ()
            except ArtifactDamaged as damage:
                damages.append(damage)
                continue
            for file in files:
                try:
                    self._check(file.digest)
                except ArtifactDamaged as damage:
                    damages.append(damage)
        return damages

    def _put_blob(self, digest: str, size: int, put: Callable[[str], None]) -> None:
        key = keys.blob(digest)
        there = self.store.stat(key)
        if there is None or there.size != size or time.time() - there.modified > REFRESH_AFTER:
            put(key)

    def _check(self, digest: str) -> None:
        if isinstance(self.store, FolderStore):
            self._check_folder(self.store, digest)
        else:
            self._cache.mkdir(parents=True, exist_ok=True)
            with self._aside(self._cache / digest) as partial:
                self._download(digest, partial)

    def _check_folder(self, store: FolderStore, digest: str) -> None:
        key = keys.blob(digest)
        file = store.open(key)
        if file is None:
            raise ArtifactDamaged(digest, key, f"is missing in {store.uri}")
        with file:
            found = _digest(file)
        if found[0] != digest:
            raise ArtifactDamaged(digest, key, _other_content(*found))

    def _download(self, digest: str, path: Path) -> None:
        key = keys.blob(digest)
        if not self.store.download(key, path):
            raise ArtifactDamaged(digest, key, f"is missing in {self.store.uri}")
        found = digest_file(path)
        if found[0] != digest:
            raise ArtifactDamaged(digest, key, _other_content(*found))

    @contextmanager
    def _aside(self, path: Path) -> Iterator[Path]:
        partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            yield partial
        finally:
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)

    def _replace_folder(self, partial: Path, folder: Path, listing: TreeListing) -> None:
        try:
            partial.rename(folder)
        except OSError:
            # There is one: put there meanwhile by another process, or damaged in the cache.
            if not _holds(folder, listing):
                with self._aside(folder) as damaged:
                    folder.rename(damaged)
                    partial.rename(folder)


def digest_file(path: Path) -> tuple[str, int]:
    """SHA-256 of a file, and its size in bytes."""
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BufferedReader) -> tuple[str, int]:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest, file.tell()


def _holds(folder: Path, listing: TreeListing) -> bool:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return (
        folder.is_dir()
        and names == {file.name for file in listing.files}
        and all(digest_file(folder / file.name)[0] == file.digest for file in listing.files)
    )


def _other_content(digest: str, size: int) -> str:
    return f"has another content than its name says ({size} bytes with SHA-256 {digest}): damaged or truncated"


def _first(error: ValidationError) -> str:
    details = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, details['loc'])) or 'the document'}: {details['msg']}"
