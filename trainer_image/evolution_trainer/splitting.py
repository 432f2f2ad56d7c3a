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
    if len(text) <= max_tokens * _CHARACTERS_PER_TOKEN and count(text) <= max_tokens:
        yield text
        return
    chunk: list[str] = []
    tokens = 0
    for piece in _pieces(text, max_tokens, count, 0):
        size = count(piece)
        if chunk and tokens + size > max_tokens:
            yield from _joined(chunk, max_tokens, count)
            chunk, tokens = [], 0
        chunk.append(piece)
        tokens += size
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


def _pieces(text: str, max_tokens: int, count: CountTokens, level: int) -> Iterator[str]:
    """`text` in pieces that fit, each with the blanks that follow it, divided no further than needed."""
    bare = text.strip()
    if not bare or (len(bare) <= max_tokens * _CHARACTERS_PER_TOKEN and count(bare) <= max_tokens):
        yield text
    elif level == len(_BORDERS):
        yield from _cut(text, max_tokens, count)
    else:
        start = 0
        for border in _BORDERS[level].finditer(text):
            if border.end() > start:
                yield from _pieces(text[start : border.end()], max_tokens, count, level + 1)
                start = border.end()
        if start < len(text):
            yield from _pieces(text[start:], max_tokens, count, level + 1)


def _cut(text: str, max_tokens: int, count: CountTokens) -> Iterator[str]:
    """`text`, which has no border, in the longest pieces that fit."""
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
        while 1 < end < len(text) and (
            unicodedata.combining(text[end]) or text[end] in _JOINERS or text[end - 1] == "\u200d"
        ):
            end -= 1
        yield text[:end] if end > 1 else text[:fits]
        text = text[end if end > 1 else fits :]
