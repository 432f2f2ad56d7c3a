"""Locations outside the store that a run may name, besides s3:// and files: the Hugging Face Hub and volume claims.

The patterns are read by Python and by RE2, so that `evolve validate` and the API server agree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

SCHEMES = ("s3", "hf", "pvc", "file")
"""Of sources."""

_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_CLAIM = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_COMMIT = "[0-9a-f]{40}"

HUB_MODEL = f"^hf://{_NAME}/{_NAME}@{_COMMIT}(/.*)?$"
HUB_DATASET = f"^hf://datasets/{_NAME}/{_NAME}@{_COMMIT}(/.*)?$"
VOLUME = f"^pvc://{_CLAIM}(/.*)?$"
STEPS_OUT = r"^(hf|pvc)://.*/\.\.?(/.*)?$"
"""A path with '.' or '..' in it, which could name what lies elsewhere."""
NO_MODEL = f"{STEPS_OUT}|^hf://datasets/"

_FIND_COMMIT = "git ls-remote https://huggingface.co/{place}NAME HEAD prints one"

USER_IN_ADDRESS = "^([A-Za-gi-z]|h[A-Za-eg-z0-9])[A-Za-z0-9+.-]*://[^/]*@"
"""Of any scheme but hf, where an @ stands before a commit."""
HOLDS_USER = (
    "holds a user or password, which anybody may read there; leave them out: workers have keys from the Secret that "
    "their runtime names, on a laptop from the environment"
)
"""Said without the location."""

SourceKind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Objection:
    """What is said of a location: `remedy` follows the location in quotes where `pattern` is found in it."""

    pattern: str
    remedy: str


def _hub(right: str, kind: SourceKind) -> tuple[Objection, ...]:
    place = "datasets/" if kind == "dataset" else ""
    find = _FIND_COMMIT.format(place=place)
    prefix = f"^hf://{place}{_NAME}/{_NAME}"
    other = (
        Objection("^hf://datasets/", f" is a data set, where a model is wanted; give {right}")
        if kind == "model"
        else Objection(HUB_MODEL, f" is a model, where a data set is wanted; give {right}")
    )
    return (
        other,
        Objection(
            f"{prefix}(/.*)?$",
            f" names no revision, so that its content may change; give {right} with a commit ({find})",
        ),
        Objection(
            f"{prefix}@",
            f" names a revision that is no commit: branches and tags move; give the 40 hex digits of a commit ({find})",
        ),
        Objection("^hf://", f" names nothing on the Hugging Face Hub; give {right}"),
    )


_PATH = Objection(STEPS_OUT, " has '.' or '..' in its path; give the path itself")
_CLAIM_NAME = Objection(
    "^pvc://",
    " names no volume claim; give pvc://claim/path, the claim's name in lower-case letters, digits, '-' and '.'",
)
MODEL_OBJECTIONS: Sequence[Objection] = (_PATH, *_hub("hf://org/name@<40 hex digits>", "model"), _CLAIM_NAME)
DATASET_OBJECTIONS: Sequence[Objection] = (
    _PATH,
    *_hub("hf://datasets/org/name@<40 hex digits>/path", "dataset"),
    _CLAIM_NAME,
)
"""In order: the first that is found is what is said. They hold only of what is not right already."""


def mistake(uri: str, kind: SourceKind) -> str:
    """What is wrong with a location on the hub or a volume claim, or with its scheme, for people; "" if nothing."""
    scheme, is_uri, _ = uri.partition("://")
    if holds_user(uri):
        return HOLDS_USER
    if is_uri and scheme not in SCHEMES:
        hub = "hf://org/name@commit" if kind == "model" else "hf://datasets/org/name@commit/path"
        return (
            f'"{uri}" has a scheme that is not supported; give s3://bucket/prefix, {hub}, pvc://claim/path, or on a '
            "laptop file:///path or a path"
        )
    if not uri.startswith(("hf://", "pvc://")):
        return ""
    right, wrong = (HUB_MODEL, NO_MODEL) if kind == "model" else (HUB_DATASET, STEPS_OUT)
    if re.search(f"{right}|{VOLUME}", uri) and not re.search(wrong, uri):
        return ""
    objections = MODEL_OBJECTIONS if kind == "model" else DATASET_OBJECTIONS
    return next(f'"{uri}"{said.remedy}' for said in objections if re.search(said.pattern, uri))


class HubLocation(NamedTuple):
    kind: SourceKind
    name: str
    """org/name"""
    revision: str
    """Commit, 40 hex digits."""
    path: str
    """Of a file or folder in it; "" for all."""


def hub_location(uri: str) -> HubLocation | None:
    """The parts of hf://org/name@commit/path and hf://datasets/org/name@commit/path; None of anything else."""
    kind: SourceKind = "dataset" if uri.startswith("hf://datasets/") else "model"
    if not uri.startswith("hf://") or mistake(uri, kind):
        return None
    name, _, rest = uri.removeprefix("hf://").removeprefix("datasets/" if kind == "dataset" else "").partition("@")
    revision, _, path = rest.partition("/")
    return HubLocation(kind, name, revision, path.strip("/"))


def claim_and_path(uri: str) -> tuple[str, str] | None:
    """The parts of pvc://claim/path; None of anything else."""
    if not uri.startswith("pvc://") or mistake(uri, "model"):
        return None
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path.strip("/")


def holds_user(address: str) -> bool:
    """Whether a server's address holds a user or password: `https://user:password@host/path`."""
    return bool(re.search(USER_IN_ADDRESS, address))
