"""The arms of a comparison: one run file with some fields set otherwise, each with every seed."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from evolution.api.errors import FieldError, InvalidRun
from evolution.api.load import load_document, parse_value, run_from_object, with_absolute_locations
from evolution.api.run import EvolutionRun, Focus, Strategy

BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    **{strategy.lower(): {"selection.strategy": strategy} for strategy in get_args(Strategy)},
    **{focus.lower(): {"generation.focus": focus} for focus in get_args(Focus) if focus != "Any"},
}
"""Arms that need only a name: the strategies of selection, and what to ask about."""
CANDIDATES = 8
"""Candidates of the built-in arms with a focus, where the file does not say how many: one leaves nothing to choose."""
LONGEST_NAME = 40
FIXED: Mapping[str, str] = {
    "seed": "every arm is run with every seed; give them with --seeds",
    "evaluation": "arms are compared on the same questions and scores; change the file instead",
    "publish": "a comparison publishes nothing",
    "suspend": "a comparison is run now",
}
"""Fields of `spec` that no arm may set, and why."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NEXT_FIELD = re.compile(r",(?=\s*[A-Za-z][\w.]*=)")


@dataclass(frozen=True)
class Arm:
    name: str
    """Lower-case letters, digits and '-'."""
    changes: Mapping[str, Any]
    """Values by field of `spec`, as `selection.strategy`; none: the run as its file has it."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of fields that the file leaves out."""


@dataclass(frozen=True)
class Member:
    """One run of the comparison."""

    arm: str
    seed: int
    run: EvolutionRun


def parse_arm(text: str) -> Arm:
    """An arm from `NAME=FIELD=VALUE,FIELD=VALUE`, or `NAME` alone; values as in a run file.

    Raises:
        InvalidRun: it is not of this form.
    """
    name, _, rest = text.partition("=")
    source = f"arm {name}"
    if not _NAME.fullmatch(name):
        raise InvalidRun(
            source, [FieldError("", "name it with lower-case letters, digits and '-': NAME=FIELD=VALUE,FIELD=VALUE")]
        )
    changes: dict[str, Any] = {}
    for setting in _NEXT_FIELD.split(rest) if rest else []:
        path, equals, value = setting.partition("=")
        path = path.strip().removeprefix("spec.")
        if not equals or not path:
            raise InvalidRun(
                source, [FieldError("", f"{setting!r} sets no field; write FIELD=VALUE, as selection.strategy=Hard")]
            )
        if path in changes:
            raise InvalidRun(source, [FieldError(f"spec.{path}", "is given twice")])
        changes[path] = _value(path, value, source)
    return Arm(name, changes)


def _value(path: str, text: str, source: str) -> Any:
    try:
        return parse_value(text, source)
    except InvalidRun as error:
        raise InvalidRun(source, [FieldError(f"spec.{path}", e.message) for e in error.errors]) from error


def built_in_arm(name: str) -> Arm:
    """The built-in arm of that name, in any case.

    Raises:
        InvalidRun: there is none.
    """
    changes = BUILT_IN.get(name.lower())
    if changes is None:
        known = ", ".join(BUILT_IN)
        raise InvalidRun(
            f"arm {name}",
            [FieldError("", f"is not built in; those are {known}. Others: --arm NAME=FIELD=VALUE")],
        )
    return Arm(name.lower(), changes, {"generation.candidates": CANDIDATES} if "generation.focus" in changes else {})


def members(file: Path, arms: Sequence[Arm], seeds: Sequence[int]) -> list[Member]:
    """Every arm with every seed, checked; seed by seed, so that one seed soon has all arms. No seeds: the file's.

    Raises:
        InvalidRun: the file cannot be read, fewer than two arms, a name twice, or a field of an arm is wrong.
    """
    document = load_document(file)
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRun("arms", [FieldError("", f"{', '.join(twice)} is given twice")])
    if len(arms) < 2:
        known = ",".join(BUILT_IN)
        raise InvalidRun(
            "arms",
            [FieldError("", f"a comparison needs two or more: --arms {known} are built in, --arm NAME=FIELD=VALUE")],
        )
    spec = run_from_object(document).spec
    # As the file and its preset have it: an arm of another preset would be scored otherwise.
    document["spec"]["evaluation"] = spec.evaluation.model_dump(mode="json", by_alias=True)
    seeds = seeds or [spec.seed]
    if len(set(seeds)) < len(seeds):
        raise InvalidRun("seeds", [FieldError("", f"{', '.join(map(str, seeds))}: one is given twice")])
    return [Member(arm.name, seed, _run(document, arm, seed, file)) for seed in seeds for arm in arms]


def _run(document: Mapping[str, Any], arm: Arm, seed: int, file: Path) -> EvolutionRun:
    source = f"arm {arm.name}"
    changed = deepcopy(dict(document))
    metadata = changed["metadata"]
    name = f"{metadata['name']}-{arm.name}-s{seed}"
    if len(name) > LONGEST_NAME:
        message = f"its run would be {name}, {len(name)} characters; {LONGEST_NAME} are most: shorten metadata.name"
        raise InvalidRun(source, [FieldError("", f"{message} or the arm's name")])
    changed["metadata"] = metadata | {"name": name}
    spec = changed["spec"]
    for path, value in arm.changes.items():
        _place(spec, path, source)[_last(path)] = value
    for path, value in arm.defaults.items():
        _place(spec, path, source).setdefault(_last(path), value)
    spec["seed"] = seed
    for left_out in ("publish", "suspend"):
        spec.pop(left_out, None)
    try:
        return with_absolute_locations(run_from_object(changed), file.resolve().parent)
    except InvalidRun as error:
        raise InvalidRun(source, error.errors) from error


def _place(spec: dict[str, Any], path: str, source: str) -> dict[str, Any]:
    """The mapping that holds the field at `path`."""
    *above, _ = parts = path.split(".")
    if parts[0] in FIXED:
        raise InvalidRun(source, [FieldError(f"spec.{path}", f"no arm can set it: {FIXED[parts[0]]}")])
    place = spec
    for depth, part in enumerate(above, start=1):
        if place.get(part) is None:
            place[part] = {}
        if not isinstance(place[part], dict):
            raise InvalidRun(source, [FieldError(f"spec.{path}", f"spec.{'.'.join(parts[:depth])} has no fields")])
        place = place[part]
    return place


def _last(path: str) -> str:
    return path.rpartition(".")[2]
