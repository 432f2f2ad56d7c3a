"""Splitting long documents at paragraph borders, else between sentences, else between words."""

import re
import unicodedata
from collections.abc import Callable, Iterator

CountTokens = Callable[[str], int]

_BORDERS = (
    re.compile(r"\n[^\S\n]*\n\s*"),  # paragraphs
    re.compile(r"\n\s*"),  # lines
    re.compile(r"(?<=[.!?…؟।])[\"'”’)\]]*\s+|(?<=[。！？；])[”’」』）]*\s*"),  # sentences
    re.compile(r"\s+"),  # words
)
_CHARACTERS_PER_TOKEN = 16
"""Longer stretches per token are not looked for when a text without any border has to be cut."""
_JOINERS = "\u200d\ufe0e\ufe0f"


def split(text: str, max_tokens: int, count: CountTokens) -> Iterator[str]:
    """Chunks of `text` of at most `max_tokens` as `count` counts them; only blanks between chunks get lost.

    A chunk takes as many whole paragraphs as fit; one that is too long alone is divided further.
    """
    chunk: list[str] = []
    tokens = 0
    for piece, size in _pieces(text, max_tokens, count):
        if chunk and tokens + size > max_tokens:
            yield from _joined(chunk, max_tokens, count)
            chunk, tokens = [], 0
        chunk.append(piece)
        tokens += size
    if len(chunk) == 1 and chunk[0] == text:
        yield text
    else:
        yield from _joined(chunk, max_tokens, count)


def _joined(pieces: list[str], max_tokens: int, count: CountTokens) -> Iterator[str]:
    """The pieces as one chunk; as more than one, should they have more tokens together than apart."""
    chunk = "".join(pieces).strip()
    if len(pieces) == 1 or count(chunk) <= max_tokens:
        if chunk:
            yield chunk
        return
    half = len(pieces) // 2
    yield from _joined(pieces[:half], max_tokens, count)
    yield from _joined(pieces[half:], max_tokens, count)


def _pieces(text: str, max_tokens: int, count: CountTokens, level: int = 0) -> Iterator[tuple[str, int]]:
    """`text` in pieces that fit, each with the blanks that follow it and its tokens, divided no further than needed."""
    if len(text) <= max_tokens * _CHARACTERS_PER_TOKEN:
        tokens = count(text)
        if tokens <= max_tokens:
            yield text, tokens
            return
    for next_level in range(level, len(_BORDERS)):
        parts = list(_divided(text, _BORDERS[next_level]))
        if len(parts) > 1:
            for part in parts:
                yield from _pieces(part, max_tokens, count, next_level + 1)
            return
    yield from _cut(text, max_tokens, count)


def _divided(text: str, border: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for found in border.finditer(text):
        if start < found.end() < len(text):
            yield text[start : found.end()]
            start = found.end()
    yield text[start:]


def _cut(text: str, max_tokens: int, count: CountTokens) -> Iterator[tuple[str, int]]:
    """`text`, which has no border, in the longest pieces that fit, with their tokens."""
    while text:
        fits, too_long = 1, min(len(text), max_tokens * _CHARACTERS_PER_TOKEN) + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if count(text[:middle]) <= max_tokens:
                fits = middle
            else:
                too_long = middle
        end = fits
        # A letter and its accents, or the parts of an emoji, belong together.
        while 0 < end < len(text) and (_joins(text[end]) or text[end - 1] == "\u200d"):
            end -= 1
        end = end or fits
        yield text[:end], count(text[:end])
        text = text[end:]


def _joins(character: str) -> bool:
    return bool(unicodedata.combining(character)) or character in _JOINERS
