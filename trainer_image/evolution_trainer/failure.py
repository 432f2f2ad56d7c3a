"""Why a stage cannot be done."""

from evolution.plan.worker import ExitCode


class StageFailed(Exception):
    """A stage cannot be done, and why, for the person who can mend it."""

    def __init__(self, reason: str, message: str, code: int = ExitCode.BAD_INPUT) -> None:
        self.reason = reason
        """CamelCase, for machines."""
        self.code = code
        """One of `ExitCode`, or 1: tried again, and counted."""
        super().__init__(message)
