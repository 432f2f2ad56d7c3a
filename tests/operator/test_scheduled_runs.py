"""What the records of runs tell of the schedule that started them."""

import pytest
from bodies import run_body

from evolution_operator.parse import run_record
from evolution_operator.scheduled_runs import FAILURES_BEFORE, scheduled_run


def failures_before(written: str) -> int:
    body = run_body()
    body["metadata"] |= {"creationTimestamp": "2026-11-21T12:00:00Z", "annotations": {FAILURES_BEFORE: written}}
    return scheduled_run(run_record(body)).failures_before


@pytest.mark.parametrize("written", ["²", "-1", "two", "", pytest.param("9" * 5000, id="5000 digits")])
def test_a_number_of_failures_that_somebody_has_written_over_counts_for_nothing(written: str) -> None:
    assert failures_before(written) == 0


def test_the_number_of_failures_before_a_run_is_read_from_it() -> None:
    assert failures_before("3") == 3
