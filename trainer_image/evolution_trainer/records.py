"""Records of JSON Lines, JSON and Parquet files, one at a time, each with the place it stands at."""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow  # type: ignore[import-untyped]
from pyarrow import parquet

SUFFIXES = frozenset({".jsonl", ".json", ".parquet"})
CHUNK = 1 << 16
"""Bytes read at a time."""
PARQUET_ROWS = 64
"""Rows in memory at a time."""
_NEAR_THE_END = 16
"""A JSON error so close to the end of what was read may just need more of the file."""


@dataclass(frozen=True)
class Record:
    origin: str
    """`docs.jsonl:17` (line), `docs.json:3, element 2` or `docs.parquet:17` (row), counted from 1."""
    fields: dict[str, Any]


@dataclass(frozen=True)
class Unusable:
    """Something that cannot be used, and why."""

    origin: str
    reason: str
    """CamelCase, for machines: Unreadable, WrongEncoding, BrokenJSON, NotARecord, MissingField, NotText, Empty."""
    detail: str


def read_records(path: Path, name: str, columns: tuple[str, ...] | None = None) -> Iterator[Record | Unusable]:
    """The records of a file in their order; `name` is what it is called in origins.

    What cannot be read is reported in its place; where nothing after it can be read either, that is the last.
    Of a Parquet file only `columns` are read (None: all).
    """
    try:
        match path.suffix.lower():
            case ".jsonl":
                with path.open("rb") as file:
                    yield from _json_lines(file, name)
            case ".json":
                with path.open("rb") as file:
                    yield from _json(file, name)
            case ".parquet":
                yield from _parquet(path, name, columns)
            case suffix:
                raise ValueError(f"{name}: {suffix} is not one of {sorted(SUFFIXES)}")
    except OSError as error:
        yield Unusable(name, "Unreadable", f"cannot be read: {error.strerror or error}")


def not_utf8(offset: int, data: bytes, at: int) -> str:
    """What is said of the byte `data[at]`, which stands at `offset` of its file and is not UTF-8."""
    encoding = _probable_encoding(data)
    return (
        f"byte {offset} (0x{data[at]:02x}) is not UTF-8, the encoding that is expected; "
        f"if the file is {encoding}, convert it: iconv -f {encoding} -t UTF-8 OLD > NEW"
    )


def _probable_encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    # Chinese text has its high bytes in runs, western text has a single accented letter here and there.
    runs = re.findall(rb"[\x80-\xff]+", data[:CHUNK])
    return "GB18030" if sum(map(len, runs)) >= 1.5 * len(runs) else "WINDOWS-1252"


def _json_lines(file: BinaryIO, name: str) -> Iterator[Record | Unusable]:
    start = 0
    for number, line in enumerate(file, start=1):
        origin = f"{name}:{number}"
        bom = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
        content = line[bom:].rstrip(b"\r\n")
        if content.strip():
            try:
                text = content.decode("utf-8")
                yield _record(origin, json.loads(text))
            except UnicodeDecodeError as error:
                yield Unusable(origin, "WrongEncoding", not_utf8(start + bom + error.start, content, error.start))
            except (ValueError, RecursionError) as error:
                yield Unusable(origin, "BrokenJSON", _broken(error, text))
        start += len(line)


def _broken(error: Exception, text: str) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"cannot be read as JSON: {error}"
    near = _excerpt(text[max(0, error.pos - 20) : error.pos + 20].strip())
    return (
        f"is not JSON: {error.msg.removesuffix(' at')} at column {error.pos + 1}, near {near!r}; "
        'every line must be one whole object, such as {"text": "…"}'
    )


def _record(origin: str, value: Any) -> Record | Unusable:
    if isinstance(value, dict):
        return Record(origin, value)
    return Unusable(origin, "NotARecord", f'is {shown(value)}; it must be an object, such as {{"text": "…"}}')


def shown(value: Any) -> str:
    """A short rendering of a JSON value, with its type."""
    kind = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    if value is None:
        return "null"
    excerpt = _excerpt(json.dumps(value, ensure_ascii=False, default=str))
    return f"{excerpt} ({kind.get(type(value), type(value).__name__)})"


def _excerpt(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"


class _NotUTF8(Exception):
    pass


class _Text:
    """Text of a JSON file, read as far as needed; what lies before `at` is forgotten whenever more is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._size = CHUNK
        self._position = 0
        self.text = ""
        self.at = 0
        self.line = 1
        self.ended = False

    def next(self) -> str:
        """The next character that is not blank, "" at the end of the file; `at` is where it stands."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self._advance(self.at + 1)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Go on behind the character at `at`."""
        self._advance(self.at + 1)

    def value(self) -> Any:
        """The JSON value that starts at `at`; goes on behind it."""
        while True:
            try:
                value, end = self._json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                incomplete = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _NEAR_THE_END
                if not incomplete or not self._more():
                    raise
            else:
                self._advance(end)
                return value

    def _advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end
        self._size = CHUNK

    def _more(self) -> bool:
        """Read on, twice as much as before unless `at` has moved; False at the end of the file."""
        if self.ended:
            return False
        data = self._file.read(self._size)
        self.ended = not data
        self.text = self.text[self.at :]
        self.at = 0
        try:
            self.text += self._decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            self.line += self.text.count("\n") + error.object.count(b"\n", 0, error.start)
            offset = self._position + len(data) - len(error.object) + error.start
            raise _NotUTF8(not_utf8(offset, error.object, error.start)) from error
        self._position += len(data)
        self._size *= 2
        return not self.ended


def _json(file: BinaryIO, name: str) -> Iterator[Record | Unusable]:
    """An array of objects, or objects one after the other."""
    text = _Text(file)
    number = 0
    try:
        in_array = text.next() == "["
        if in_array:
            text.skip()
        while text.next() not in ("", "]"):
            number += 1
            origin = f"{name}:{text.line}, element {number}"
            try:
                value = text.value()
            except (ValueError, RecursionError) as error:
                yield Unusable(origin, "BrokenJSON", _broken_element(text, error))
                return
            yield _record(origin, value)
            if in_array and text.next() not in (",", "]", ""):
                near = _excerpt(text.text[text.at : text.at + 20])
                yield Unusable(
                    origin, "BrokenJSON", f"is followed by {near!r} instead of a comma; the rest is not read"
                )
                return
            if in_array and text.next() == ",":
                text.skip()
        end = f"{name}:{text.line}"
        if in_array and not text.next():
            yield Unusable(end, "BrokenJSON", f"ends inside the array, after element {number}: is the file complete?")
        elif text.next():
            text.skip()
            if not in_array or text.next():
                yield Unusable(end, "BrokenJSON", f"has more text after element {number}, where the file should end")
    except _NotUTF8 as error:
        yield Unusable(f"{name}:{text.line}", "WrongEncoding", f"{error}; the rest is not read")


def _broken_element(text: _Text, error: Exception) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"cannot be read as JSON: {error}; the rest is not read"
    line = text.line + text.text.count("\n", text.at, error.pos)
    near = _excerpt(text.text[max(text.at, error.pos - 20) : error.pos + 20].strip())
    return f"is not JSON: {error.msg.removesuffix(' at')} in line {line}, near {near!r}; the rest is not read"


def _parquet(path: Path, name: str, columns: tuple[str, ...] | None) -> Iterator[Record | Unusable]:
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            known = set(file.schema_arrow.names)
            wanted = None if columns is None else [column for column in columns if column in known]
            # Without a wanted column the rows still count, and are told which fields there are.
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=wanted or None):
                for row in range(batch.num_rows):
                    number += 1
                    try:
                        fields = {field: batch.column(field)[row].as_py() for field in batch.schema.names}
                    except UnicodeDecodeError as error:
                        yield Unusable(
                            f"{name}:{number}", "WrongEncoding", f"holds text that is not UTF-8 ({error.reason})"
                        )
                        continue
                    yield Record(f"{name}:{number}", fields)
    except pyarrow.ArrowException as error:
        yield Unusable(f"{name}:{number + 1}", "Unreadable", f"cannot be read as Parquet: {_excerpt(str(error))}")
