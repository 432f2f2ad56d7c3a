"""Times of a schedule, in its time zone. Pure.

As with Debian's cron, a time that the clocks skip in spring comes with the hour after, and one that comes twice in
autumn counts once, the first time; what happens every few minutes or every hour goes on evenly.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError


class NoSuchTime(Exception):
    """The expression names no time at all; the message is for people."""


def last_and_next(expression: str, zone: str, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The last time that is not after `now`, and the first that is; None where there is none for 50 years.

    Raises:
        NoSuchTime: as the 30th of February.
    """
    here = now.astimezone(ZoneInfo(zone)).replace(microsecond=0)
    try:
        found = next(_times(expression, here + timedelta(seconds=1), backward=True), None)
        # When clocks are set back, the way back in time misses what the way forward finds.
        start = (found or here).astimezone(here.tzinfo)
        for moment in _times(expression, start):
            if moment > now:
                return found, moment
            found = moment
    except CronSimError as error:
        raise NoSuchTime(f"'{expression}' names no time that there is: {str(error).lower()}") from error
    return found, None


def _times(expression: str, start: datetime, *, backward: bool = False) -> "_UTC":
    return _UTC(CronSim(expression, start, reverse=backward))


class _UTC:
    """The same moments in UTC, in which they can be compared: within a zone, clocks are, not moments."""

    def __init__(self, moments: CronSim) -> None:
        self._moments = moments

    def __iter__(self) -> "_UTC":
        return self

    def __next__(self) -> datetime:
        return next(self._moments).astimezone(UTC)
