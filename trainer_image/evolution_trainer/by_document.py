"""Rows that belong to documents, read beside the documents."""

from collections.abc import Iterator

from evolution_trainer.rows import Row


class ByDocument:
    """Rows in the order of their documents, taken document by document; memory holds those of one."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def take(self, document: str) -> list[Row]:
        """The next rows, as far as they belong to the document of that id."""
        taken = []
        while self._next is not None and self._next["document"] == document:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken
