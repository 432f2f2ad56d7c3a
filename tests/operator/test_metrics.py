import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from shown_run import START, edited, ended_attempt, shown_run
from told_metrics import Clock, Told

from evolution.ledger import Ledger
from evolution.metrics.families import FAMILIES, RESOURCES, label_values
from evolution.plan.stage import Kind
from evolution_operator.queue import KeyedQueue
from evolution_operator.records import RunKey
from evolution_operator.resync import WATCHED
from evolution_operator.settings import Settings

HOUR = timedelta(hours=1)
GPU_SECONDS = "evolution_stage_gpu_seconds_total"
NOT_SHOWN = "evolution_operator_runs_not_shown"


def told(clock: Callable[[], datetime] | None = None, **settings: Any) -> Told:
    return Told(Settings(store="file:///store", **settings), clock or Clock())


def begun(name: str = "ops", namespace: str = "team") -> Any:
    return shown_run(name, namespace, rounds_done=-1)


def everything() -> Told:
    """Metrics after a bit of all that can happen."""
    here = told(gpu_prices=(("h100", 2.5),))
    here.requests["get", "jobs", 200] += 3
    here.news.told("jobs")
    here.tell(shown_run())
    here.knows_schedule("manuals", "Waiting")
    here.metrics.ended("team-legal", ended_attempt(1, Kind.TRAIN, 1), "applied")
    here.metrics.handled("reconcile")(0.2, True)
    here.metrics.begins(KeyedQueue())
    return here


def test_the_page_has_every_metric_of_the_table_and_no_other() -> None:
    page = everything().metrics.page("")[0].decode()
    served = [line.split()[2:4] for line in page.splitlines() if line.startswith("# TYPE")]
    assert sorted(served) == sorted([family.name, family.type] for family in FAMILIES)
    helps = {line.split(maxsplit=3)[2]: line.split(maxsplit=3)[3] for line in page.splitlines() if "# HELP" in line}
    assert helps == {family.name: family.help for family in FAMILIES}


def test_every_series_has_the_labels_that_the_table_says_with_values_that_it_allows() -> None:
    page = everything().metrics.page("")[0].decode()
    by_name = {name: family for family in FAMILIES for name in family.series}
    samples = [s for metric in text_string_to_metric_families(page) for s in metric.samples]
    assert len(samples) > 100
    for sample in samples:
        family = by_name[sample.name]
        labels = {label: value for label, value in sample.labels.items() if label != "le"}
        assert set(labels) == set(family.labels), sample.name
        for label, value in labels.items():
            allowed = label_values(family, label)
            assert not allowed or value in allowed, (sample.name, label, value)


def test_watches_are_told_of_by_the_kinds_that_are_watched() -> None:
    assert sorted(RESOURCES) == sorted(kind.resource.plural for kind in WATCHED)


def test_openmetrics_is_served_to_those_who_ask_for_it() -> None:
    page, content_type = everything().metrics.page("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")
    assert page.count(b"# EOF") == 1
    plain, content_type = everything().metrics.page("text/plain;version=0.0.4")
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in plain


def test_what_is_counted_in_this_process_begins_at_zero() -> None:
    here = told()
    here.tell(begun())
    for reason in ("damaged", "vanished"):
        assert here.value("evolution_artifact_verify_failures_total", namespace="team", reason=reason) == 0
    for result in ("applied", "missing", "unreadable"):
        assert here.value("evolution_operator_result_records_total", result=result) == 0
    assert len(here.series("evolution_operator_object_store_requests_total")) == 25
    here.metrics.asked("history_write", "timeout")
    here.metrics.verify_failed("team", "damaged")
    here.metrics.ended("team", ended_attempt(1, Kind.TRAIN, 1), "missing")
    assert here.value("evolution_operator_object_store_requests_total", op="history_write", code="timeout") == 1
    assert here.value("evolution_artifact_verify_failures_total", reason="damaged") == 1
    assert here.value("evolution_operator_result_records_total", result="missing") == 1


def test_an_ended_attempt_tells_how_long_it_waited_and_how_long_it_held_its_node() -> None:
    here = told()
    here.metrics.ended("team", ended_attempt(1, Kind.TRAIN, 1, "preempted"), "applied")
    assert here.value("evolution_stage_queue_seconds_sum", namespace="team", stage="Train") == 5
    assert here.value("evolution_stage_duration_seconds_sum", stage="Train", outcome="preempted") == 102
    never = ended_attempt(2, Kind.SCORE, 1, "stopped").model_copy(update={"allocated_at": "", "started_at": ""})
    here.metrics.ended("team", never, "missing")
    assert sum(here.series("evolution_stage_duration_seconds_count").values()) == 1


def test_runs_are_counted_by_phase_whether_they_are_shown_or_not() -> None:
    here = told(metrics_runs=1)
    for number in range(3):
        here.tell(shown_run(f"run-{number}", "team", state="Running"))
    here.tell(shown_run("held", "other", state="Suspended"))
    assert here.value("evolution_runs", namespace="team", phase="Running") == 3
    assert here.value("evolution_runs", namespace="other", phase="Suspended") == 1
    assert here.value("evolution_runs", namespace="other", phase="Failed") == 0


def test_schedules_are_counted_by_state() -> None:
    here = told()
    for name, summary in {"a": "Stalled: RunsFail", "b": "Stalled: InvalidSpec", "c": "Running", "new": ""}.items():
        here.knows_schedule(name, summary)
    here.knows_schedule("held", "Suspended", "other")
    states = {"Stalled": 2, "Running": 1, "Waiting": 1, "Suspended": 0}
    assert {state: here.value("evolution_schedules", namespace="team", state=state) for state in states} == states
    assert here.value("evolution_schedules", namespace="other", state="Suspended") == 1
    here.knows_schedule("a", "Waiting")
    assert here.value("evolution_schedules", namespace="team", state="Stalled") == 1


def test_at_the_cap_the_newest_are_shown_and_active_ones_before_ended_ones() -> None:
    here = told(metrics_runs=3)
    here.tell(begun("just-ended"), START, ended_at=START)
    for hours in (1, 4, 2, 3):
        here.tell(begun(f"active-{hours}"), START + hours * HOUR)
    assert here.runs() == {"active-2", "active-3", "active-4"}
    assert here.value(NOT_SHOWN, reason="cap") == 2
    here.metrics.gone(RunKey("team", "active-3"))
    here.tell(begun("active-1"), START + HOUR)
    assert here.runs() == {"active-1", "active-2", "active-4"}


def test_ended_runs_are_shown_for_some_hours_and_then_counted_as_ended() -> None:
    clock = Clock()
    here = told(clock, metrics_hours=24)
    here.tell(begun("ops"), START, ended_at=START)
    clock.now = START + 23 * HOUR
    assert here.runs() == {"ops"}
    clock.now = START + 25 * HOUR
    assert here.runs() == set()
    assert here.value(NOT_SHOWN, reason="ended") == 1


def test_of_runs_that_ended_before_the_operator_began_the_newest_are_wanted() -> None:
    here = told(Clock(START + 5 * HOUR), metrics_runs=2, metrics_hours=4)
    ends = {RunKey("team", f"run-{hour}"): START + hour * HOUR for hour in range(5)}
    for key, ended_at in ends.items():
        here.metrics.wants(key, ended_at)
    assert [key.name for key, ended_at in ends.items() if here.metrics.wants(key, ended_at)] == ["run-3", "run-4"]


def test_a_run_whose_history_was_not_read_yet_is_counted_as_unread() -> None:
    here = told()
    here.knows(begun())
    assert here.runs() == set()
    assert here.value(NOT_SHOWN, reason="unread") == 1


def test_an_ended_run_that_goes_on_counts_as_active_again() -> None:
    here = told(metrics_runs=1, metrics_hours=1)
    here.tell(begun("again"), START, ended_at=START)
    here.tell(begun("again"), START)
    here.tell(begun("ended"), START + HOUR, ended_at=START)
    assert here.runs() == {"again"}


def test_no_counter_falls_over_a_restart_once_the_history_was_read() -> None:
    before, after = told(), told(Clock(START + 9 * HOUR))
    run = shown_run(more=[ended_attempt(90, Kind.GENERATE, 4, "lost")])
    before.tell(run)
    after.tell(replace(run, ledger=Ledger.model_validate_json(run.ledger.to_json())))
    for family in (
        family for family in FAMILIES if family.type == "counter" and family.labels[:2] == ("namespace", "run")
    ):
        assert before.series(family.name) == after.series(family.name) != {}


def test_a_run_created_again_begins_at_zero() -> None:
    here = told()
    here.tell(shown_run("ops", "team"))
    assert sum(here.series(GPU_SECONDS).values()) > 0
    here.metrics.gone(RunKey("team", "ops"))
    assert here.runs() == set()
    here.tell(begun())
    assert set(here.series(GPU_SECONDS).values()) == {0}


def test_two_hundred_runs_with_every_stage_fit_into_what_a_scrape_may_weigh() -> None:
    here, run = everything(), shown_run(spec={"selection": {"strategy": "Hard"}})
    for number in range(200):
        metadata = run.run.metadata.model_copy(update={"name": f"contracts-{number:04}", "namespace": "team-support"})
        here.tell(replace(run, run=run.run.model_copy(update={"metadata": metadata})))
    assert len(here.runs()) == 200
    page, _ = here.metrics.page("")
    assert len(page) <= 2 * 2**20
    assert len(gzip.compress(page, 1)) <= 2**18, "Prometheus asks for it compressed"


def test_without_single_runs_namespaces_are_told_and_do_not_fall_when_a_run_is_deleted() -> None:
    here = told(metrics_per_run=False)
    run = begun("new")
    here.tell(run)
    here.tell(edited(run, ended_attempt(0, Kind.TRAIN, 1)))
    here.tell(edited(begun("second"), ended_attempt(0, Kind.TRAIN, 1)))
    assert here.runs() == set()
    assert here.series("evolution_run_phase") == {}
    assert here.series("evolution_round_coverage_ratio") == {}
    sums = here.series(GPU_SECONDS)
    assert sum(sums.values()) == 2 * 2 * 102
    assert {dict(labels)["run"] for labels in sums} == {""}
    here.metrics.gone(RunKey("team", "new"))
    assert here.series(GPU_SECONDS) == sums
    here.tell(edited(begun("new"), ended_attempt(0, Kind.TRAIN, 1)))
    assert sum(here.series(GPU_SECONDS).values()) == 3 * 2 * 102


def test_without_single_runs_what_was_spent_before_the_operator_began_is_not_counted_again() -> None:
    here = told(Clock(START + HOUR), metrics_per_run=False)
    run = shown_run("old", "team")
    here.tell(run, created_at=START)
    assert set(here.series(GPU_SECONDS).values()) == {0}
    here.tell(edited(run, ended_attempt(90, Kind.TRAIN, 4)), created_at=START)
    assert sum(here.series(GPU_SECONDS).values()) == 2 * 102
    assert here.metrics.wants(RunKey("team", "ended"), START) is False


def test_a_run_that_cannot_be_told_is_named_in_the_log_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    here = told()
    broken = here.knows(begun("broken"))
    here.metrics.shown(RunKey("team", "broken"), replace(broken, graph=None))  # type: ignore[arg-type]
    here.tell(begun("ops"))
    assert here.runs() == {"ops"}
    assert "team/broken" in caplog.text


def test_prices_are_told_as_they_were_given() -> None:
    here = told(gpu_prices=(("h100", 2.5), ("l40s", 0.8)), currency="EUR")
    assert here.value("evolution_gpu_hourly_price", gpu_class="l40s", currency="EUR") == 0.8


def test_the_operator_is_active_from_its_first_list_on() -> None:
    here = told()
    assert here.value("evolution_operator_active") == 0
    here.metrics.begins(KeyedQueue())
    assert here.value("evolution_operator_active") == 1
    assert here.value("evolution_operator_queue_depth") == 0
