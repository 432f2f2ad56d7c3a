"""Where things lie in a store, below the namespace's prefix."""

import re
from pathlib import PurePosixPath

BLOBS = "blobs/sha256/"
STAGES = "stages/"
PARTS = "parts/"
RUNS = "runs/"
PROBE = "probe/"
"""Short-lived objects that test what the store can do."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\d+-of-\d+\.json")
_RUN = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_AT_WORK = re.compile(r"runs/([^/]+)/(?:progress/([0-9a-f]{64})(?:-\d+)?\.json|checkpoints/([0-9a-f]{64})/.+)")


def blob(digest: str) -> str:
    """`blobs/sha256/<2>/<digest>`: content, named by what it is."""
    return f"{BLOBS}{_sha256(digest)[:2]}/{digest}"


def manifest(fingerprint: str) -> str:
    """`stages/<fingerprint>.json`: a finished stage."""
    return f"{STAGES}{_sha256(fingerprint)}.json"


def part(fingerprint: str, shard: int, shards: int) -> str:
    """`parts/<fingerprint>/<shard>-of-<shards>.json`: what one of several workers has done of a stage."""
    return f"{PARTS}{_sha256(fingerprint)}/{shard}-of-{shards}.json"


def progress(run: str, fingerprint: str, shard: int | None = None) -> str:
    """`runs/<run>/progress/<fingerprint>.json`: how far a worker is; `run` is `<name>-<uid8>`.

    Of workers that share a stage each has its own: `runs/<run>/progress/<fingerprint>-<shard>.json`.
    """
    suffix = "" if shard is None else f"-{shard}"
    return f"{_run(run)}progress/{_sha256(fingerprint)}{suffix}.json"


def checkpoints(run: str, fingerprint: str) -> str:
    """`runs/<run>/checkpoints/<fingerprint>/`: prefix of what an interrupted stage goes on from."""
    return f"{_run(run)}checkpoints/{_sha256(fingerprint)}/"


def tensorboard(run: str, round_: int) -> str:
    """`runs/<run>/tensorboard/r<round>/`: prefix of a training's event files."""
    return f"{_run(run)}tensorboard/r{round_}/"


def history(run: str) -> str:
    """`runs/<run>/history.json`: every round of a run."""
    return f"{_run(run)}history.json"


def digest_of(key: str) -> str | None:
    """The digest that a blob's key names; None for any other key."""
    name = PurePosixPath(key).name
    return name if _SHA256.fullmatch(name) and key == blob(name) else None


def fingerprint_of(key: str) -> str | None:
    """The fingerprint that a manifest's key names; None for any other key."""
    name = PurePosixPath(key).stem
    return name if _SHA256.fullmatch(name) and key == manifest(name) else None


def stage_of_part(key: str) -> str | None:
    """The fingerprint of the stage that a part's key belongs to; None for any other key."""
    folder, _, name = key.removeprefix(PARTS).partition("/")
    return folder if _SHA256.fullmatch(folder) and key.startswith(PARTS) and _PART.fullmatch(name) else None


def at_work(key: str) -> tuple[str, str] | None:
    """The run, and the fingerprint of the stage, that a key of progress or of a checkpoint belongs to; None for any
    other key.
    """
    match = _AT_WORK.fullmatch(key)
    return (match[1], match[2] or match[3]) if match else None


def _run(run: str) -> str:
    if not _RUN.fullmatch(run):
        raise ValueError(f"{run!r} cannot name a run in the store: lower-case letters, digits, - and . only")
    return f"{RUNS}{run}/"


def _sha256(name: str) -> str:
    if not _SHA256.fullmatch(name):
        raise ValueError(f"{name!r} is not a SHA-256: 64 lower-case hexadecimal digits are")
    return name
