"""Objects of the cluster are read as runs and runtimes, with mistakes named by field."""

from typing import Any

import pytest
from api_objects import run, runtime, schedule

from evolution.api.errors import InvalidRun
from evolution.api.load import run_from_object, runtime_from_object, schedule_from_object
from evolution.api.runtime import amount, seconds

SERVER_FIELDS: dict[str, Any] = {
    "metadata.uid": "0d1f",
    "metadata.resourceVersion": "7",
    "metadata.generation": 2,
    "metadata.creationTimestamp": "2026-11-21T12:00:00Z",
    "metadata.managedFields": [{"manager": "kubectl"}],
    "metadata.finalizers": ["x/y"],
    "status": {"state": "FromTheFuture", "unknown": 1},
}


def test_what_the_server_adds_to_a_run_is_left_aside() -> None:
    body = run({**SERVER_FIELDS, "metadata.labels": {"team": "a"}, "metadata.annotations": {"b": "c"}})
    loaded = run_from_object(body)
    assert (loaded.metadata.name, loaded.metadata.namespace) == ("telecom-ops", "default")
    assert (loaded.metadata.labels, loaded.metadata.annotations) == ({"team": "a"}, {"b": "c"})


def test_the_preset_completes_an_object() -> None:
    assert run_from_object(run({"spec.preset": "Reference"})).spec.training.rank == 8
    assert run_from_object(run({"spec.preset": "Reference", "spec.training": {"rank": 4}})).spec.training.rank == 4


@pytest.mark.parametrize("zone", ["Mars/Olympus", "+02:00", "/etc/localtime", "CEST"])
def test_a_time_zone_that_there_is_not_is_refused_with_what_there_is(zone: str) -> None:
    with pytest.raises(InvalidRun) as refused:
        schedule_from_object(schedule({"spec.timeZone": zone}))
    (mistake,) = refused.value.errors
    assert mistake.path == "spec.timeZone"
    assert f"'{zone}' is no time zone; give an IANA name such as Europe/Berlin, or leave it out" in mistake.message


def test_a_null_wins_over_the_preset() -> None:
    assert run_from_object(run({})).spec.selection.max_ifd == 1.0
    assert run_from_object(run({"spec.selection": {"maxIFD": None}})).spec.selection.max_ifd is None


def test_a_null_in_place_of_something_optional_is_nothing() -> None:
    spec = run_from_object(run({"spec.budget": None, "spec.publish": None, "spec.evaluation.primary": None})).spec
    assert (spec.budget, spec.publish, spec.evaluation.primary_metric) == (None, None, "ROUGEL")


def test_locations_of_an_object_stay_as_they_are() -> None:
    assert run_from_object(run({})).spec.model.uri == "s3://models/base"


def test_all_mistakes_of_an_object_are_told_with_their_fields() -> None:
    with pytest.raises(InvalidRun) as refused:
        run_from_object(run({"spec.rounds": 0, "spec.training": {"rnak": 1}}))
    assert [error.path for error in refused.value.errors] == ["spec.rounds", "spec.training.rnak"]
    assert "default/telecom-ops: spec.rounds: is 0; give 1 or more" in str(refused.value)


def test_a_runtime_of_the_cluster_has_no_namespace_of_its_own() -> None:
    loaded = runtime_from_object(runtime(SERVER_FIELDS))
    assert (loaded.kind, loaded.metadata.name, loaded.spec.shards) == ("ClusterEvolutionRuntime", "default", 1)


def test_quantities_may_be_numbers() -> None:
    resources = runtime_from_object(runtime({"spec.resources": {"cpu": 4, "memory": 2**30}})).spec.resources
    assert resources.cpu == "4"
    assert amount(resources.memory) == 2**30


@pytest.mark.parametrize(
    ("quantity", "number"), [("500m", 0.5), ("4", 4), ("1.5k", 1500), ("16Gi", 2**34), ("2T", 2 * 10**12)]
)
def test_a_quantity_is_a_number_with_a_unit(quantity: str, number: float) -> None:
    assert amount(quantity) == number


def test_a_duration_is_hours_minutes_and_seconds() -> None:
    assert (seconds("90s"), seconds("1h30m"), seconds("24h")) == (90, 5400, 86400)


def test_mistakes_of_a_runtime_are_told_with_their_fields() -> None:
    with pytest.raises(InvalidRun, match=r"^default: spec\.resources\.gpsu: unknown field; did you mean gpus\?$"):
        runtime_from_object(runtime({"spec.resources": {"gpsu": 1}}))
