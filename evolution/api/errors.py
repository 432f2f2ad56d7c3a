"""What a run author is told about a run file that cannot be used."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One mistake: where (`path` of the field, `line` of the file, 1-based, 0 if unknown) and what would be right."""

    path: str
    message: str
    line: int = 0


class InvalidRun(Exception):
    """A run file was refused; `str()` is one line per mistake, ready to print."""

    def __init__(self, source: str, errors: list[FieldError]) -> None:
        self.source = source
        self.errors = errors
        super().__init__("\n".join(self._line(error) for error in errors))

    def _line(self, error: FieldError) -> str:
        where = f"{self.source}:{error.line}" if error.line else self.source
        return f"{where}: {error.path}: {error.message}" if error.path else f"{where}: {error.message}"
