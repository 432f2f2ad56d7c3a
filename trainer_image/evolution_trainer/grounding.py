"""Whether a text stays with its document: no name and no number that the document does not hold."""

import logging
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from evolution_trainer.language import BLANKLESS, language, words

_NUMBER = re.compile(r"\d+(?:[.,'’]\d+)*")
_GROUPED = re.compile(r"(?<=\d)[,'’](?=\d{3}(?!\d))")
_LETTERS = re.compile(rf"[^\W\d_{BLANKLESS}]+")
_LATIN = re.compile(r"[A-Za-z]{2,}")
_MIXED = re.compile(rf"[^\W{BLANKLESS}](?:[^\W{BLANKLESS}]|[-.'’](?=[^\W{BLANKLESS}]))*")
_SENTENCE = re.compile(r"[.!?:;]\s+|\n+|[。！？：；]")
_KATAKANA = re.compile(r"[\u30a1-\u30fa\u30fc]{3,}")
_HAN_NAMES = ("nr", "ns", "nt", "nz")
"""jieba's tags for people, places, organisations and other proper names."""
_NO_NAMES = frozenset({"i", "yes", "no", "none", "true", "false", "unknown", "s"})
"""Words with a capital that name nothing."""
_DIGITS = "zero one two three four five six seven eight nine ten eleven twelve"
_SPELLED = {word: str(n) for n, word in enumerate(_DIGITS.split())}
_SPELLED |= {word: str(n) for n, word in enumerate("零一二三四五六七八九十")} | {
    "两": "2",
    "eleven": "11",
    "twelve": "12",
}


@dataclass(frozen=True)
class Ground:
    """What a text may name: the words and numbers of another text."""

    text: str

    def holds(self, text: str) -> bool:
        """Whether every name and number in `text` occurs in this one.

        Numbers are compared without separators of thousands, names without case and blanks. Names are words with a
        capital that opens no sentence, in Chinese what jieba takes for a proper name, in Japanese words in katakana,
        and in every language words made of letters and digits. An inflected name is another name.
        """
        if not numbers(text) <= self._numbers:
            return False
        if any(_squeezed(word) not in self._squeezed for word in _identifiers(text)):
            return False
        return all(self._names(name) for name in names(text))

    def _names(self, name: str) -> bool:
        folded = name.casefold()
        return folded in self._words or folded.removesuffix("s") in self._words or self._runs_on(folded)

    def _runs_on(self, name: str) -> bool:
        """Scripts without blanks between words are searched as they stand."""
        return language(name) in ("zh", "ja") and name in self._squeezed

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(word.casefold() for word in _LETTERS.findall(_normal(self.text)))

    @cached_property
    def _numbers(self) -> frozenset[str]:
        return numbers(self.text) | {_SPELLED[word] for word in map(str.casefold, words(self.text)) if word in _SPELLED}

    @cached_property
    def _squeezed(self) -> str:
        return _squeezed(self.text)


def numbers(text: str) -> frozenset[str]:
    """The numbers in digits: `1,234.50` is 1234.5, `3,5` is 3.5; what has more than one point stays as it is."""
    return frozenset(_plain(found) for found in _NUMBER.findall(_normal(text)))


def _plain(number: str) -> str:
    plain = re.sub("[,'’]", ".", _GROUPED.sub("", number))
    return plain.rstrip("0").removesuffix(".") if plain.count(".") == 1 else plain


def names(text: str) -> list[str]:
    """Proper names, word by word."""
    text = _normal(text)
    tag = language(text)
    if tag == "zh":
        return [*_latin(text), *_han_names(text)]
    if tag == "ja":
        return [*_latin(text), *_KATAKANA.findall(text)]
    return [name for sentence in _SENTENCE.split(text) for name in _capitalised(sentence)]


def _capitalised(sentence: str) -> list[str]:
    """Words with a capital; the first one only if it stands alone, since every sentence opens with one."""
    found = _LETTERS.findall(sentence)
    named = [word for word in found[len(found) > 1 :] if any(c.isupper() for c in word)]
    return [word for word in named if word.casefold() not in _NO_NAMES]


def _latin(text: str) -> list[str]:
    """Words in Latin letters amid another script are terms, with or without a capital."""
    return [word for word in _LATIN.findall(text) if word.casefold() not in _NO_NAMES]


def _han_names(text: str) -> list[str]:
    import jieba  # type: ignore[import-untyped]
    from jieba import posseg

    jieba.setLogLevel(logging.WARNING)
    return [found.word for found in posseg.cut(text) if found.flag[:2] in _HAN_NAMES and len(found.word) > 1]


def _identifiers(text: str) -> list[str]:
    """Words of letters and digits, such as `RX-12` and `5GHz`."""
    found = _MIXED.findall(_normal(text))
    return [word for word in found if any(c.isdigit() for c in word) and any(c.isalpha() for c in word)]


def _squeezed(text: str) -> str:
    """Letters and digits alone."""
    return "".join(c for c in _normal(text).casefold() if c.isalnum())


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)
