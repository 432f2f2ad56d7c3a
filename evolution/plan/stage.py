"""Stages and fingerprints: a stage is a pure description, so equal descriptions are done once."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import JsonValue


class Kind(StrEnum):
    PREPARE = "Prepare"
    GENERATE = "Generate"
    SCORE = "Score"
    TRAIN = "Train"
    EVALUATE = "Evaluate"
    PUBLISH = "Publish"


SEMANTICS: Mapping[Kind, int] = {
    Kind.PREPARE: 1,
    Kind.GENERATE: 1,
    Kind.SCORE: 1,
    Kind.TRAIN: 1,
    Kind.EVALUATE: 1,
    Kind.PUBLISH: 1,
}
"""Version of what a stage kind means; raising one makes every stage of that kind run again."""


def canonical_json(value: Any) -> bytes:
    """The one byte sequence for a JSON value: sorted keys, no blanks, UTF-8.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(kind: Kind, parameters: Mapping[str, JsonValue], inputs: Mapping[str, str]) -> str:
    """Name of a stage: SHA-256 over its kind, semantics version, parameters and the digests of its inputs."""
    return sha256(
        canonical_json(
            {"kind": kind, "semantics": SEMANTICS[kind], "parameters": dict(parameters), "inputs": dict(inputs)}
        )
    )
