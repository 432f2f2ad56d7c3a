"""States of a training in the store: each a folder of files, whole or not there.

Files are named by their content; a listing, named by its own, is written after all of them.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evolution.plan.stage import canonical_json, sha256
from evolution.store.artifacts import digest_file
from evolution.store.base import StoreUnavailable
from evolution_trainer.checkpoint import Checkpoints

_LISTING = re.compile(r"(\d{12})-([0-9a-f]{64})\.json")
_FILE = re.compile(r"[A-Za-z0-9_][\w.-]*")


@dataclass(frozen=True)
class TrainingCheckpoints:
    """The newest state of one training."""

    checkpoints: Checkpoints
    versions: Mapping[str, str]
    """Of the libraries that wrote the files; others do not read them."""

    @property
    def due(self) -> bool:
        return self.checkpoints.due

    def save(self, folder: Path, step: int) -> None:
        """Store the files of `folder`, the state after optimizer step `step`, in place of older states.

        A store that does not answer just now costs this checkpoint, not the training.
        """
        with self.checkpoints.clock.checkpointing():
            try:
                self._save(folder, step)
                self.checkpoints.work_saved = self.checkpoints.clock.seconds["work"]
            except StoreUnavailable as error:
                print(f"the checkpoint of step {step} is not kept: {error}", file=sys.stderr)  # noqa: T201
        self.checkpoints.saved()

    def _save(self, folder: Path, step: int) -> None:
        store = self.checkpoints.store
        files = {path.name: digest_file(path)[0] for path in sorted(folder.iterdir())}
        for name, digest in files.items():
            store.upload(folder / name, self._file(digest))
        listing = canonical_json({"files": files, "versions": dict(self.versions)})
        key = f"{self._prefix}{step:012d}-{sha256(listing)}.json"
        store.write(key, listing)
        needed = {key, *map(self._file, files.values())}
        for found in list(store.list(self._prefix)):
            if found.key not in needed:
                store.delete(found.key)

    def restore(self, folder: Path) -> bool:
        """Bring the newest whole state into the new folder `folder`; False if there is none."""
        with self.checkpoints.clock.checkpointing():
            for files in self._listings():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                if all(self._fetch(digest, folder / name) for name, digest in files.items()):
                    return True
        return False

    def _listings(self) -> Iterator[Mapping[str, str]]:
        """Names and digests of the files of every state that these libraries wrote, the newest first."""
        store = self.checkpoints.store
        for found in sorted(store.list(self._prefix), key=lambda found: found.key, reverse=True):
            match = _LISTING.fullmatch(found.key.removeprefix(self._prefix))
            data = store.read(found.key) if match else None
            if match and data and sha256(data) == match[2]:
                listing = json.loads(data)
                if listing["versions"] == self.versions and all(map(_FILE.fullmatch, listing["files"])):
                    yield listing["files"]

    def _fetch(self, digest: str, path: Path) -> bool:
        return self.checkpoints.store.download(self._file(digest), path) and digest_file(path)[0] == digest

    @property
    def _prefix(self) -> str:
        return f"{self.checkpoints.prefix}training/"

    def _file(self, digest: str) -> str:
        return f"{self._prefix}files/{digest}"
