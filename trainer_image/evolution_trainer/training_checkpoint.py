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

    def save(self, folder: Path, step: int) -> bool:
        """Store the files of `folder`, the state after optimizer step `step`, in place of older states.

        A store that does not answer just now costs this checkpoint, not the training: False.
        """
        with self.checkpoints.clock.checkpointing():
            try:
                self._save(folder, step)
                return True
            except StoreUnavailable as error:
                print(f"the checkpoint of step {step} is not kept: {error}", file=sys.stderr)  # noqa: T201
                return False

    def tried(self, kept: bool) -> None:
        """A state was to be saved, by this worker or by the one that leads; if it is kept, no work is lost."""
        if kept:
            self.checkpoints.work_saved = self.checkpoints.clock.seconds["work"]
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

    def restore(self, folder: Path, wanted: str = "") -> str:
        """Bring the newest whole state, or the one named `wanted`, into the new folder `folder`; its name, or "" if
        there is none.
        """
        with self.checkpoints.clock.checkpointing():
            for state, files in self._listings():
                if wanted not in ("", state):
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                if all(self._fetch(digest, folder / name) for name, digest in files.items()):
                    return state
        return ""

    def _listings(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Name of every state that these libraries wrote, with names and digests of its files; the newest first."""
        store = self.checkpoints.store
        for found in sorted(store.list(self._prefix), key=lambda found: found.key, reverse=True):
            state = found.key.removeprefix(self._prefix)
            match = _LISTING.fullmatch(state)
            data = store.read(found.key) if match else None
            if match and data and sha256(data) == match[2]:
                listing = json.loads(data)
                if listing["versions"] == self.versions and all(map(_FILE.fullmatch, listing["files"])):
                    yield state, listing["files"]

    def _fetch(self, digest: str, path: Path) -> bool:
        return self.checkpoints.store.download(self._file(digest), path) and digest_file(path)[0] == digest

    @property
    def _prefix(self) -> str:
        return f"{self.checkpoints.prefix}training/"

    def _file(self, digest: str) -> str:
        return f"{self._prefix}files/{digest}"
