"""The language of a text, as far as its script tells, and its words."""

import re
from collections import Counter
from itertools import islice

BLANKLESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no blanks between words (a regular expression's set): a character of theirs counts as one word."""

_WORD = re.compile(rf"[{BLANKLESS}]|[^\W{BLANKLESS}]+")
_SAMPLE = 2000
_SCRIPTS = (
    ("kana", "\u3040-\u30ff\u31f0-\u31ff"),
    ("zh", "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"),
    ("ko", "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"),
    ("ru", "\u0400-\u052f"),
    ("el", "\u0370-\u03ff\u1f00-\u1fff"),
    ("hy", "\u0530-\u058f"),
    ("he", "\u0590-\u05ff"),
    ("ar", "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff"),
    ("am", "\u1200-\u139f"),
    ("hi", "\u0900-\u097f"),
    ("bn", "\u0980-\u09ff"),
    ("ta", "\u0b80-\u0bff"),
    ("th", "\u0e00-\u0e7f"),
    ("lo", "\u0e80-\u0eff"),
    ("bo", "\u0f00-\u0fff"),
    ("my", "\u1000-\u109f"),
    ("ka", "\u10a0-\u10ff"),
    ("km", "\u1780-\u17ff"),
    ("en", "a-zA-Z\u00c0-\u024f\u1e00-\u1eff"),
)
_SCRIPT = re.compile("|".join(f"(?P<{name}>[{characters}])" for name, characters in _SCRIPTS))


def words(text: str) -> list[str]:
    """The words of a text without punctuation; in scripts without blanks every character counts as one."""
    return _WORD.findall(text)


def language(text: str) -> str:
    """ISO 639-1 tag of the language that stands for the script of most of the first 2,000 words.

    One tag per script, not a language detector: Ukrainian is `ru`, French is `en`, as is what has no letters at all.
    """
    counts: Counter[str] = Counter()
    for word in islice(_WORD.finditer(text), _SAMPLE):
        script = _SCRIPT.match(word[0])
        if script is not None and script.lastgroup is not None:
            counts[script.lastgroup] += 1
    # Japanese mixes kana with Han characters; Chinese texts quote a few kana at most.
    kana = counts.pop("kana", 0)
    if kana * 10 > counts["zh"]:
        counts["ja"] = kana + counts.pop("zh", 0)
    most = max(counts.values(), default=0)
    return min((tag for tag, count in counts.items() if count == most and most), default="en")
