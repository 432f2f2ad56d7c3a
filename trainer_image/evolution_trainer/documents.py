"""Raw documents: found below a folder or in a file, read one at a time, normalised."""

import codecs
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution_trainer import records
from evolution_trainer.failure import StageFailed
from evolution_trainer.records import Record, Unusable, not_utf8, read_records, shown

TEXT_SUFFIXES = frozenset({".txt", ".md"})
FIELDS = ("text", "content", "document", "instruction")
"""Where a record's document is looked for, in this order, unless the run file names the field."""

_LINE_ENDS = str.maketrans({"\x0b": "\n", "\x0c": "\n", "\x85": "\n", "\u2028": "\n", "\u2029": "\n\n"})
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
_BLANK_LINES = re.compile(r"\n{4,}")


@dataclass(frozen=True)
class Document:
    origin: str
    """`manuals/pump.md`, `docs.jsonl:17` or `docs.json:3, element 2`."""
    text: str


class Documents:
    """The documents at `root`, a folder (all files below it, by name) or a file; iterate to read them.

    `verbatim` leaves the texts as they are instead of normalising them.

    Raises:
        StageFailed: DocumentInvalid, if there is no file of a supported kind.
    """

    def __init__(self, root: Path, *, field: str = "", verbatim: bool = False) -> None:
        self._root = root
        self._fields = (field,) if field else FIELDS
        self._verbatim = verbatim
        self.left_out: Counter[str] = Counter()
        """Files of other kinds, by suffix; complete after reading."""

    def __iter__(self) -> Iterator[Document | Unusable]:
        """Every document, or why it cannot be used, in its place."""
        self.left_out.clear()
        found = False
        for path in _files(self._root):
            suffix = path.suffix.lower()
            if suffix not in TEXT_SUFFIXES | records.SUFFIXES:
                self.left_out[suffix or path.name] += 1
                continue
            found = True
            name = path.name if path == self._root else path.relative_to(self._root).as_posix()
            name = os.fsencode(name).decode("utf-8", "replace")
            if suffix in TEXT_SUFFIXES:
                yield self._text_file(path, name)
            else:
                for record in read_records(path, name, self._fields):
                    yield self._field(record) if isinstance(record, Record) else record
        if not found:
            supported = ", ".join(sorted(TEXT_SUFFIXES | records.SUFFIXES))
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.left_out.most_common(8))
            there = f"only {kinds}" if kinds else "the folder is empty"
            raise StageFailed(
                "DocumentInvalid",
                f"{self._root}: there are no documents ({there}); supported are {supported}",
            )

    def _text_file(self, path: Path, name: str) -> Document | Unusable:
        try:
            data = path.read_bytes()
        except OSError as error:
            return Unusable(name, "Unreadable", f"cannot be read: {error.strerror}")
        at = data.find(b"\0")
        if at >= 0 and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return Unusable(
                name, "WrongEncoding", f"byte {at} is NUL: this is no text, or it is UTF-16; UTF-8 is expected"
            )
        try:
            return self._document(name, data.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
        except UnicodeDecodeError as error:
            start = error.start + len(data) - len(error.object)
            line = data.count(b"\n", 0, start) + 1
            return Unusable(f"{name}:{line}", "WrongEncoding", not_utf8(start, data, start))

    def _field(self, record: Record) -> Document | Unusable:
        name = next((field for field in self._fields if field in record.fields), None)
        if name is None:
            wanted = " or ".join(map(repr, self._fields))
            there = ", ".join(map(repr, record.fields)) or "none at all"
            return Unusable(
                record.origin,
                "MissingField",
                f"has no field {wanted}, but {there}; documents.field names the one that holds the document",
            )
        value: Any = record.fields[name]
        if not isinstance(value, str):
            return Unusable(record.origin, "NotText", f"field {name!r} is {shown(value)}; it must be text")
        return self._document(record.origin, value)

    def _document(self, origin: str, text: str) -> Document | Unusable:
        if not encodable(text):
            return Unusable(
                origin, "WrongEncoding", "holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no text"
            )
        document = Document(origin, text if self._verbatim else normalised(text))
        if not document.text.strip():
            return Unusable(origin, "Empty", "is empty")
        return document


def normalised(text: str) -> str:
    """`text` in NFC with LF line ends, without control characters, blanks at line ends and long runs of blank lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_LINE_ENDS)
    text = unicodedata.normalize("NFC", _CONTROLS.sub("", text))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


def encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8: JSON may spell out halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(root: Path) -> Iterator[Path]:
    """`root` itself, or all files below it by name; hidden ones are left out."""
    if not root.is_dir():
        yield root
        return
    try:
        paths = sorted(root.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise StageFailed("DocumentInvalid", f"{root}: the folder cannot be read: {error.strerror}") from error
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.is_file() or path.is_symlink():  # a link that leads nowhere is told like a file that cannot be read
            yield path
