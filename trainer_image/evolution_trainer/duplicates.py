"""Chunks of documents on disk, without duplicates.

Exact duplicates have the same text. A near duplicate says the same words in the same order as another chunk, or as a
stretch of at least 95 % of it; case, width, punctuation and blanks do not matter. Its shingles of three words then
have a Jaccard similarity of 0.95 or more, but that alone would not do: of two data sheets of 300 words that differ in
one number, each holds something that the other does not, and both are kept.

Memory stays the same however many chunks there are. Candidates are found through the rarest shingle: a near duplicate's
rarest shingle is among the few rarest of the chunk that it repeats. Shared phrases of templates are not rare, so
chunks made from one template are not compared with each other.
"""

import re
import sqlite3
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evolution.plan.stage import sha256
from evolution_trainer.language import BLANKLESS, language

REST = 20
"""A near duplicate lacks at most one in so many words of what it repeats."""
ID_DIGITS = 16

_WORD = re.compile(rf"[-+]?[0-9](?:[0-9.,:]*[0-9])?|!=|[{BLANKLESS}]|[^\W0-9{BLANKLESS}]+|[^\w\s]")
_MEANT = frozenset("%‰/&@")
"""Punctuation that changes what is said."""
_SKETCH_BITS = 20
_CANDIDATES = 64
"""Longer chunks compared at most; among more with that shingle a near duplicate may be overlooked, hence kept."""
_SEPARATOR = "\x1f"

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Chunk:
    id: str
    text: str
    language: str


@dataclass(frozen=True)
class NearDuplicate:
    sources: tuple[str, ...]
    kept: str
    """Id of the chunk that says the same."""


class Chunks:
    """Chunks of documents in an SQLite file; `unique` keeps equal texts once, else they are told apart by a suffix."""

    def __init__(self, path: Path, *, unique: bool) -> None:
        self._unique = unique
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("PRAGMA cache_size = -8192")
        self._db.execute("CREATE TABLE chunk (n INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT, words INTEGER)")
        self._db.execute("CREATE INDEX by_length ON chunk (words DESC, id)")
        self._db.execute("CREATE TABLE source (chunk INTEGER, source TEXT)")
        self._db.execute("CREATE INDEX by_chunk ON source (chunk)")
        self._db.execute("CREATE TABLE copies (id TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID")
        self._db.execute("CREATE TABLE rare (shingle INTEGER, words INTEGER, said INTEGER, chunk INTEGER)")
        self._db.execute("CREATE INDEX by_shingle ON rare (shingle, words, said, chunk)")
        self._db.execute("CREATE TABLE removed (chunk INTEGER PRIMARY KEY)")
        self._db.execute("BEGIN")
        self._rarity = np.zeros(1 << _SKETCH_BITS, dtype=np.uint32)
        self.duplicates = 0
        """Chunks that were there already."""

    def __enter__(self) -> "Chunks":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, text: str, source: str) -> None:
        id_ = sha256(text.encode())[:ID_DIGITS]
        if not self._unique:
            id_ = self._numbered(id_)
        elif row := self._db.execute("SELECT n FROM chunk WHERE id = ?", (id_,)).fetchone():
            self.duplicates += 1
            self._db.execute("INSERT INTO source VALUES (?, ?)", (row[0], source))
            return
        words = comparable_words(text) if self._unique else []
        n = self._db.execute("INSERT INTO chunk (id, text, words) VALUES (?, ?, ?)", (id_, text, len(words))).lastrowid
        self._db.execute("INSERT INTO source VALUES (?, ?)", (n, source))
        if self._unique:
            self._rarity[_slots(_shingles(words))] += 1

    def _numbered(self, id_: str) -> str:
        """`id_` at first, then `id_`-2, `id_`-3 and so on."""
        self._db.execute("INSERT INTO copies VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1", (id_,))
        (count,) = self._db.execute("SELECT count FROM copies WHERE id = ?", (id_,)).fetchone()
        return id_ if count == 1 else f"{id_}-{count}"

    def remove_near_duplicates(self) -> Iterator[NearDuplicate]:
        """Remove near duplicates, the shorter of two, and of equals the one with the higher id.

        What is removed depends on the texts alone, not on the order in which they were added.
        """
        longest_first = self._db.execute("SELECT n, id, text FROM chunk ORDER BY words DESC, id")
        for n, _, text in longest_first:
            words = comparable_words(text)
            rarest = self._rarest_first(_shingles(words))
            kept = self._repeated(words, rarest[0])
            if kept is None:
                # A near duplicate lacks so few words, hence shingles, that its rarest must be one of these.
                index = [(shingle, len(words), _said(words), n) for shingle in rarest[: len(words) // REST + 1]]
                self._db.executemany("INSERT INTO rare VALUES (?, ?, ?, ?)", index)
            else:
                self._db.execute("INSERT INTO removed VALUES (?)", (n,))
                sources = self._db.execute("SELECT source FROM source WHERE chunk = ? ORDER BY source", (n,))
                yield NearDuplicate(tuple(source for (source,) in sources), kept)
        self._db.execute("DELETE FROM source WHERE chunk IN (SELECT chunk FROM removed)")
        self._db.execute("DELETE FROM chunk WHERE n IN (SELECT chunk FROM removed)")

    def _repeated(self, words: list[str], rarest: int) -> str | None:
        """Id of a chunk that holds all `words` in a row and little else."""
        found = "SELECT chunk.id, chunk.text FROM rare JOIN chunk ON chunk.n = rare.chunk WHERE rare.shingle = ?"
        equal = self._db.execute(f"{found} AND rare.words = ? AND rare.said = ?", (rarest, len(words), _said(words)))
        longer = self._db.execute(
            f"{found} AND rare.words BETWEEN ? AND ? ORDER BY rare.words, rare.said LIMIT ?",
            (rarest, len(words) + 1, len(words) * REST // (REST - 1), _CANDIDATES),
        )
        wanted = _SEPARATOR.join(["", *words, ""])
        for id_, text in chain(equal, longer):
            if wanted in _SEPARATOR.join(["", *comparable_words(text), ""]):
                return str(id_)
        return None

    def _rarest_first(self, shingles: Hashes) -> list[int]:
        order = np.lexsort((shingles, self._rarity[_slots(shingles)]))
        rarest: list[int] = shingles[order].view(np.int64).tolist()
        return rarest

    @property
    def count(self) -> int:
        """Chunks there are, duplicates left out."""
        (count,) = self._db.execute("SELECT count(*) FROM chunk").fetchone()
        return int(count)

    def by_id(self) -> Iterator[Chunk]:
        return self._chunks("id")

    def in_order(self) -> Iterator[Chunk]:
        """In the order in which they were added."""
        return self._chunks("n")

    def _chunks(self, column: str) -> Iterator[Chunk]:
        for id_, text in self._db.execute(f"SELECT id, text FROM chunk ORDER BY {column}"):
            yield Chunk(id_, text, language(text))

    def sources(self) -> Iterator[tuple[str, str]]:
        """(id, source) of every chunk, ordered by id; a chunk of several sources comes several times."""
        yield from self._db.execute("SELECT id, source FROM chunk JOIN source ON chunk = n ORDER BY id, source")


def comparable_words(text: str) -> list[str]:
    """What two texts that say the same have in common: words, numbers with sign and point, and symbols."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [
        word
        for word in _WORD.findall(folded)
        if len(word) > 1 or word in _MEANT or unicodedata.category(word)[0] != "P"
    ]


def _said(words: list[str]) -> int:
    """Equal for the same words in the same order."""
    return int(sha256(_SEPARATOR.join(words).encode())[:15], 16)


def _shingles(words: list[str]) -> Hashes:
    """Distinct hashes of all runs of three words."""
    codes = np.zeros(max(3, len(words)), dtype=np.uint64)
    codes[: len(words)] = [zlib.crc32(word.encode()) for word in words]
    mixed = codes[:-2] * np.uint64(0x9E3779B97F4A7C15) + codes[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed += codes[2:] * np.uint64(0x165667B19E3779F9)
    return np.unique(mixed ^ (mixed >> np.uint64(31)))


def _slots(shingles: Hashes) -> Hashes:
    return shingles >> np.uint64(64 - _SKETCH_BITS)
