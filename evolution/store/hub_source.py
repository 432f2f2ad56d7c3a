"""Files of a commit on the Hugging Face Hub, or on a mirror that HF_ENDPOINT names.

They lie in the cache of the Hugging Face libraries (HF_HUB_CACHE, HF_HOME), where other programs find them too; what is
there already needs no network. HF_TOKEN opens what is private or gated, HF_HUB_OFFLINE forbids the network.
huggingface_hub comes with transformers: workers have it, the operator and a laptop that only watches do not.
"""

import contextlib
import glob
import hashlib
import time
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evolution.api.locations import HubLocation, hub_location, mistake
from evolution.store.base import StoreUnavailable
from evolution.store.digests import digest_of
from evolution.store.hub_errors import explained
from evolution.store.hub_progress import progress_bar
from evolution.store.hub_requests import see_that_requests_end
from evolution.store.source_files import OnProgress, SourceUnusable, Waiting, linked, see_that_it_fits, turn

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
NO_MODEL_FILES = ("*/*", "consolidated*")
"""Other models in folders of their own, and the weights once more."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
DATA_FILES = ("*.txt", "*.md", "*.jsonl", "*.json", "*.parquet")
NO_DATA_FILES = ("README.md", "dataset_infos.json")
"""What describes a data set."""
ABANDONED = 3600.0
"""Seconds since the last byte, after which a partial file belongs to nobody."""
ATTEMPTS = 2


def fetch(uri: str, cache: Path, progress: OnProgress, waiting: Waiting) -> Path:
    """The file or folder at hf://org/name@commit/path or hf://datasets/org/name@commit/path.

    Raises:
        SourceUnusable: nothing there, no permission, or nothing that can be used.
        StoreUnavailable: the hub does not answer, or what it sends is damaged.
        StoreRefused: the token is not accepted, or the disk is full.
    """
    location = hub_location(uri)
    if location is None:
        raise SourceUnusable(mistake(uri, "dataset" if uri.startswith("hf://datasets/") else "model"))
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise SourceUnusable(f"{uri}: needs huggingface_hub, which comes with evolution[trainer]") from error
    see_that_requests_end()
    commit = _Commit(uri, location)
    damaged: list[str] = []
    for _ in range(ATTEMPTS):
        with explained(uri, location):
            files = commit.cached()
            if files is None:
                with turn(cache, f"hf://{location.name}@{location.revision}", progress, waiting):
                    files = commit.cached() or commit.downloaded(progress)
        damaged = [path for path, file in files.items() if not _is_what_its_name_says(file.resolve())]
        if not damaged:
            return _source(location.path, files, cache)
        for path in damaged:
            files[path].resolve().unlink(missing_ok=True)
            files[path].unlink(missing_ok=True)
    raise StoreUnavailable(f"{uri}: what arrives is not what the hub announces, by its digest: {', '.join(damaged)}")


class _Commit:
    """What is wanted of a commit, which never changes. Files are told by their path in it."""

    def __init__(self, uri: str, location: HubLocation) -> None:
        self._uri, self._path, self._is_model = uri, location.path, location.kind == "model"
        self._what: dict[str, Any] = {
            "repo_id": location.name,
            "repo_type": location.kind,
            "revision": location.revision,
        }
        below = f"{glob.escape(location.path)}/" if location.path else ""
        files, others = (MODEL_FILES, NO_MODEL_FILES) if self._is_model else (DATA_FILES, NO_DATA_FILES)
        self._allow = [f"{below}{pattern}" for pattern in files]
        self._ignore = [f"{below}{pattern}" for pattern in others]
        if location.path and not self._is_model:
            self._allow.append(glob.escape(location.path))

    def cached(self) -> dict[str, Path] | None:
        """The files if all of them are here; None if not, or if nobody knows."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            sizes = self._known_sizes()
            if sizes is None:
                return None
            folder = self._snapshot(local_files_only=True)
        except LocalEntryNotFoundError:
            return None
        return {path: folder / path for path in self._wanted(sizes)}

    def downloaded(self, progress: OnProgress) -> dict[str, Path]:
        """The files, of which those that were not here have come from the hub."""
        from huggingface_hub import constants, try_to_load_from_cache

        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        sizes = self._wanted(self._known_sizes() or self._listed())
        missing = [path for path in sizes if not isinstance(try_to_load_from_cache(filename=path, **self._what), str)]
        to_come, size = sum(sizes[path] for path in missing), sum(sizes.values())
        see_that_it_fits(cache, to_come, self._uri)
        folder = self._snapshot(tqdm_class=progress_bar(progress, size - to_come, size, len(sizes)))
        _remove_abandoned(folder.parents[1] / "blobs")
        return {path: folder / path for path in sizes}

    def _snapshot(self, **how: Any) -> Path:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(**self._what, allow_patterns=self._allow, ignore_patterns=self._ignore, **how))

    def _known_sizes(self) -> dict[str, int] | None:
        """Bytes of the commit's files, if they were listed on this machine before. Without a network, those that other
        programs left here are taken for all.
        """
        from huggingface_hub import constants, get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            return {file.path: file.size for file in get_cached_repo_tree(**self._what)}
        except CachedRepoTreeNotFoundError:
            if not constants.is_offline_mode():
                return None
        folder = self._snapshot(local_files_only=True)
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}

    def _listed(self) -> dict[str, int]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        tree = HfApi().list_repo_tree(recursive=True, **self._what)
        return {file.path: file.size for file in tree if isinstance(file, RepoFile)}

    def _wanted(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Those of all the commit's files that are used.

        Raises:
            SourceUnusable: there are none.
        """
        below = [path for path in sizes if not self._path or path == self._path or path.startswith(f"{self._path}/")]
        if not below:
            there = ", ".join(sorted({path.partition("/")[0] for path in sizes})[:10]) or "no file"
            raise SourceUnusable(f"{self._uri}: there is no {self._path!r} in that commit, which holds {there}")
        wanted = [path for path in below if _matches(path, self._allow) and not _matches(path, self._ignore)]
        pickled = [path for path in below if path.endswith(PICKLES)]
        if self._is_model and pickled and not any(path.endswith(".safetensors") for path in wanted):
            raise SourceUnusable(
                f"{self._uri}: the only weights are pickled ({', '.join(pickled[:3])}), and reading a pickle can run "
                "any code in it; choose a model or a commit with .safetensors files"
            )
        if not wanted:
            kinds = ", ".join(MODEL_FILES if self._is_model else DATA_FILES)
            raise SourceUnusable(f"{self._uri}: there is no file that can be used; supported are {kinds}")
        return {path: sizes[path] for path in wanted}


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _source(path: str, files: Mapping[str, Path], cache: Path) -> Path:
    """The file at `path` of a commit, or the folder with what is below it."""
    if path in files:
        name = path.rpartition("/")[2]
        return linked(cache, {name: files[path]}) / name
    return linked(cache, {name.removeprefix(f"{path}/") if path else name: file for name, file in files.items()})


def _is_what_its_name_says(blob: Path) -> bool:
    """Files are named by what the hub says of their content: large ones by SHA-256, small ones as git does."""
    name, size = blob.name, blob.stat().st_size
    if len(name) == 64:
        return digest_of(blob) == name
    if len(name) == 40:
        return hashlib.sha1(b"blob %d\0" % size + blob.read_bytes(), usedforsecurity=False).hexdigest() == name
    return True


def _remove_abandoned(blobs: Path) -> None:
    """Partial files of processes that were killed: the hub's library begins anew under another name."""
    for partial in blobs.glob("*.incomplete"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                partial.unlink()
