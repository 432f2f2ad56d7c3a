"""Why a stage cannot be done."""

from evolution.plan.worker import ExitCode


class StageFailed(Exception):
    """A stage cannot be done, and why, for the person who can mend it."""

    def __init__(self, reason: str, message: str, code: ExitCode = ExitCode.BAD_INPUT) -> None:
        self.reason = reason
        """CamelCase, for machines."""
        self.code = code
        super().__init__(message)
