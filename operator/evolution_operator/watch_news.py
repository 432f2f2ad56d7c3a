"""When each kind of object was last known to be told of: a watch that falls silent is seen by it."""

import time
from collections.abc import Callable, Mapping


class WatchNews:
    """Moments, as Unix time, by plural of the kind."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._now = clock
        self._moments: dict[str, float] = {}

    def told(self, plural: str) -> None:
        """A watch told something of this kind, or a full list has found that it had missed nothing."""
        self._moments[plural] = self._now()

    def gone(self, plural: str) -> None:
        """There is no such kind any more: nothing will be told of it."""
        self._moments.pop(plural, None)

    @property
    def moments(self) -> Mapping[str, float]:
        return self._moments
