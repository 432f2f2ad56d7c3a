"""What local sources contain, told in one word, so that an edit of a file is noticed and a mere touch is not."""

import hashlib
import json
import os
from pathlib import Path

from evolution.plan.stage import canonical_json, sha256
from evolution.store.artifacts import digest_file
from evolution.store.sources import SourceUnusable, local_source

Seen = dict[str, tuple[int, int, str]]
"""Size, modification time in nanoseconds and digest of every file by its name relative to the source."""


def local_revision(uri: str, cache: Path) -> str:
    """Digest over names and contents of all files at a local `uri`; "" for other locations.

    A file is read only if its size or modification time differs from those noted in `cache` when it was read last.

    Raises:
        SourceUnusable: nothing there, or not readable.
    """
    root = local_source(uri)
    if root is None:
        return ""
    note = cache / "revisions" / f"{sha256(os.fsencode(root.resolve()))[:32]}.json"
    before = _read_note(note)
    now: Seen = {}
    for path in _files(root, uri) if root.is_dir() else [root]:
        name = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
        try:
            stat = path.stat()
            known = before.get(name)
            fresh = known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns)
            now[name] = known if known and fresh else (stat.st_size, stat.st_mtime_ns, digest_file(path)[0])
        except OSError as error:
            if path.is_symlink() and not path.exists():  # a dangling link is no file of the source
                continue
            raise SourceUnusable(f"{path}: cannot be read: {error.strerror}") from error
    if now != before:
        _write_note(note, now)
    listing = sorted((name, digest) for name, (_, _, digest) in now.items())
    return hashlib.sha256(canonical_json(listing)).hexdigest()


def _files(root: Path, uri: str) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise SourceUnusable(f"{uri}: {error.filename}: {error.strerror}") from error

    return sorted(Path(folder) / name for folder, _, names in os.walk(root, onerror=refuse) for name in names)


def _read_note(note: Path) -> Seen:
    try:
        return {
            name: (size, modified, digest) for name, (size, modified, digest) in json.loads(note.read_bytes()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_note(note: Path, seen: Seen) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_name(f"{note.name}.{os.getpid()}")
    partial.write_bytes(canonical_json(seen))
    partial.replace(note)
