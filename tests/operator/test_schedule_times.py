"""Times of a schedule: the last one and the next, also where clocks are set forward and back."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolution_operator.cron import NoSuchTime, last_and_next


def times(expression: str, now: str, zone: str = "Europe/Berlin") -> tuple[str, str]:
    """Last and next as the clocks of the zone show them, with their distance from UTC; so is `now`."""
    last, following = last_and_next(expression, zone, datetime.fromisoformat(now))
    assert last
    assert following
    return tuple(moment.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes") for moment in (last, following))


def test_a_time_has_come_in_its_first_second_and_not_before() -> None:
    assert times("0 3 * * *", "2026-11-21T03:00:00+01:00") == ("2026-11-21T03:00+01:00", "2026-11-22T03:00+01:00")
    assert times("0 3 * * *", "2026-11-21T02:59:59.999+01:00") == ("2026-11-20T03:00+01:00", "2026-11-21T03:00+01:00")


def test_the_zone_says_what_time_it_is() -> None:
    assert times("0 3 * * *", "2026-11-21T18:30:00Z", "Asia/Tokyo")[0] == "2026-11-22T03:00+09:00"
    assert times("0 3 * * *", "2026-11-21T18:30:00Z", "UTC")[0] == "2026-11-21T03:00+00:00"


def test_a_time_that_the_clocks_skip_in_spring_comes_when_they_have_skipped_it() -> None:
    assert times("30 2 * * *", "2026-03-29T01:59:00+01:00") == ("2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00")
    assert times("30 2 * * *", "2026-03-29T03:10:00+02:00") == ("2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00")


@pytest.mark.parametrize("now", ["02:30:00+02:00", "02:10:00+01:00", "02:30:00+01:00", "02:45:00+01:00"])
def test_a_time_that_comes_twice_in_autumn_counts_the_first_time(now: str) -> None:
    assert times("30 2 * * *", f"2026-10-25T{now}") == ("2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00")


def test_what_happens_every_quarter_of_an_hour_goes_on_evenly_when_clocks_are_set_back() -> None:
    assert times("*/15 * * * *", "2026-10-25T02:50:00+02:00") == ("2026-10-25T02:45+02:00", "2026-10-25T02:00+01:00")


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "30-10 0 * * *", "0 0 * * FRI-MON"])
def test_what_names_no_time_is_told(expression: str) -> None:
    with pytest.raises(NoSuchTime, match="names no time that there is"):
        last_and_next(expression, "UTC", datetime.now(UTC))


@given(
    st.sampled_from(["30 2 * * *", "*/20 * * * *", "15 */2 * * *", "0 1-3 * * *", "5 2 29 3,10 *", "0 0 * * SUN"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
    st.datetimes(datetime(2026, 3, 1), datetime(2027, 4, 30)).map(lambda moment: moment.replace(tzinfo=UTC)),
)
def test_now_lies_between_the_last_time_and_the_next_and_there_is_none_in_between(
    expression: str, zone: str, now: datetime
) -> None:
    last, following = last_and_next(expression, zone, now)
    assert last
    assert following
    assert last <= now < following
    assert last_and_next(expression, zone, last) == (last, following)
    assert last_and_next(expression, zone, following - timedelta(seconds=1)) == (last, following)
    assert last_and_next(expression, zone, following)[0] == following
