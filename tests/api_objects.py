"""Objects as an author gives them to the API server, right ones and wrong ones."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from evolution.api.run import API_VERSION

Changes = Mapping[str, Any]
"""Values by dotted path."""
LEFT_OUT = object()
"""In place of a value: the field is not given."""

RUN: Mapping[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "EvolutionRun",
    "metadata": {"name": "telecom-ops", "namespace": "default"},
    "spec": {
        "rounds": 3,
        "model": {"uri": "s3://models/base"},
        "documents": {"uri": "s3://corpora/documents"},
        "evaluation": {"uri": "s3://corpora/questions.jsonl"},
    },
}
RUNTIME: Mapping[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "ClusterEvolutionRuntime",
    "metadata": {"name": "default"},
    "spec": {"image": "registry.example/trainer:1"},
}
SCHEDULE: Mapping[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "EvolutionSchedule",
    "metadata": {"name": "nightly", "namespace": "default"},
    "spec": {"schedule": "0 3 * * *", "runTemplate": {"spec": RUN["spec"]}},
}


def changed(manifest: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """`manifest` with the value at every dotted path replaced."""
    result = deepcopy(dict(manifest))
    for path, value in changes.items():
        *parents, last = path.split(".")
        at = result
        for name in parents:
            at = at.setdefault(name, {})
        if value is LEFT_OUT:
            del at[last]
        else:
            at[last] = value
    return result


def run(changes: Changes) -> dict[str, Any]:
    return changed(RUN, changes)


def runtime(changes: Changes) -> dict[str, Any]:
    return changed(RUNTIME, changes)


def schedule(changes: Changes) -> dict[str, Any]:
    return changed(SCHEDULE, changes)
