"""Cleaning what a model wrote: the question or answer itself, without decoration, or the reason why there is none."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from evolution_trainer.language import language, words

Rules = Literal["Default", "Reference"]
Reason = Literal["Empty", "NotAQuestion", "Truncated", "CopiesDocument"]

RUN = 5
"""Words in a row that count as copied when a document has the same."""
COPIED = 0.9
"""Share of such runs from which on a text is a copy."""
LONGEST_QUOTE = 25
"""Words up to which a question may repeat the document's wording; shorter documents may also be answered whole."""

END_MARKS = "?？؟՞፧"
_MARK_OF = {"zh": "？", "ja": "？", "ar": "؟", "am": "፧"}
_WITHOUT_MARK = frozenset({"th", "lo", "km", "my", "bo"})
"""Languages that write questions without a question mark."""
_ASKS = {
    "zh": re.compile(
        r"什么|如何|怎么|怎样|为何|为什么|哪|多少|多久|多长|多大|几[个种次条项]|是否|能否|可否|有无|谁|何时|何处|何种|[吗呢]$"
    ),
    "ja": re.compile(r"か$"),
    "ko": re.compile(r"(까|나요|가요|은가|는가|인가)$"),
    "en": re.compile(
        r"^(?:(?:in|at|on|for|to|from|by) )?(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did"
        r"|can|could|should|would|will|has|have|had|may|must)\b",
        re.IGNORECASE,
    ),
}
"""How a question without a mark is told from a statement."""

_QUOTES = {'"': '"', "“": "”", "„": "“", "'": "'", "‘": "’", "「": "」", "『": "』", "«": "»"}
_QUOTES |= {"`": "`", "**": "**", "*": "*", "__": "__"}
_PLAIN_QUOTES = frozenset('"“„「『«')
"""Quotes that open nothing but a quotation: one without its other half is left over."""

_CLOSING = re.compile(r"""["'“”’」』»`*_]*""")

_MARK = r"""(?P<mark>\*\*|__|["“'‘「*_#`]+)?\s*"""
_MARK_END = r"(?:(?P=mark))?"
_TO_COLON = r"[^\n?？:：]{0,60}"
_QUESTION_LABEL = re.compile(
    rf"{_MARK}(?:"
    # "Question 1:", "Q2:", "问题：", and the same in a few other languages
    r"(?:question|pregunta|frage|pergunta|domanda|вопрос|질문|問題|質問|问题|提问|問|问|q)\s*[0-9一二三四五]{0,2}"
    # "Here is a question:", "根据文档内容，提出的问题是："
    rf"|(?:sure|certainly|of course|okay|ok|here(?:['’]s| is| are))\b{_TO_COLON}"
    rf"|(?:based on|the|my|one|a)\b{_TO_COLON}\bquestion(?:\s+is)?"
    rf"|{_TO_COLON}问题(?:可以)?是"
    rf"|(?:好的|当然|可以|根据|基于|以下|下面|这里|这是|我的){_TO_COLON}(?:问题|提问)"
    rf")\s?{_MARK_END}[:：]\s*{_MARK_END}\s*"
    r"|q[0-9]{1,2}[.)]\s+"
    r"|(?:sure|certainly|of course|好的|当然)[!！,，.。]\s*",
    re.IGNORECASE,
)
_ANSWER_LABEL = re.compile(
    rf"{_MARK}(?:(?:the\s+)?answer(?:\s+is)?|respuesta|antwort|réponse|resposta|risposta|ответ|답변|答案|回答|答|a)\s?[0-9]{{0,2}}"
    rf"{_MARK_END}[:：]\s*{_MARK_END}\s*",
    re.IGNORECASE,
)
_LEAD_IN_LINE = re.compile(
    r"(?:sure|certainly|of course|okay|ok|好的|当然|没问题)\b[^?？]*"
    r"|(?:here|based on|以下|下面|根据|基于)[^?？]*(?:question|document|text|问题|文档|资料|内容)[^?？]*[:：]"
    rf"|{_TO_COLON}(?:question|问题|提问){_TO_COLON}[:：]",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"[(（]?[0-9]{1,2}[.)．）](?:\s+|(?=[\u3040-\u30ff\u3400-\u9fff\"“]))"
    r"|[(（][0-9一二三四五六七八九十]{1,2}[)）]\s*"
    r"|[0-9一二三四五六七八九十]{1,2}、\s*(?![0-9一二三四五六七八九十])"
    r"|[①-⑳]\s*"
)
_BULLET = re.compile(r"(?:[-*+•·‣–—>]|#{1,6})\s+")
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s<>\"'“”‘’，。；（）？]+", re.IGNORECASE)
_QUERY = re.compile(r"\?[\w.%\[\]-]+=")
_THOUGHT = re.compile(r"\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Cleaned:
    text: str


@dataclass(frozen=True)
class Rejected:
    reason: Reason


def clean_question(raw: str, *, finished: bool, document: str, rules: Rules = "Default") -> Cleaned | Rejected:
    """The first question in `raw`; `finished` is False where the length limit cut it.

    Rules `Reference` are those of the published code: nothing is rejected, every text becomes a question.
    """
    if rules == "Reference":
        return Cleaned(_reference_question(raw))
    if not finished:
        return Rejected("Truncated")
    text = _undecorated(_without_lead_in(_THOUGHT.sub("", raw).strip()))
    end = _end_of_question(text)
    question = _unquoted(text) if end is None else _closed(text[:end], text[end:])
    if says_nothing(question):
        return Rejected("Empty")
    if end is None:
        marked = _with_mark(question)
        if marked is None:
            return Rejected("NotAQuestion")
        question = marked
    if len(words(question)) > LONGEST_QUOTE and _copied(question, document) >= COPIED:
        return Rejected("CopiesDocument")
    return Cleaned(question)


def clean_answer(raw: str, *, finished: bool, document: str, rules: Rules = "Default") -> Cleaned | Rejected:
    """The answer in `raw` without a lead-in; `finished` is False where the length limit cut it.

    Rules `Reference` leave every answer as it is.
    """
    if rules == "Reference":
        return Cleaned(raw)
    if not finished:
        return Rejected("Truncated")
    answer = _THOUGHT.sub("", raw).strip()
    if label := _ANSWER_LABEL.match(answer):
        answer = answer[label.end() :].strip()
    answer = _unquoted(answer)
    if says_nothing(answer):
        return Rejected("Empty")
    if len(words(document)) > LONGEST_QUOTE and _copied(document, answer) >= COPIED:
        return Rejected("CopiesDocument")
    return Cleaned(answer)


def question_key(text: str) -> str:
    """What two questions have in common that differ in case, width, punctuation and blanks only."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "PZC")


def _reference_question(raw: str) -> str:
    text = raw.replace("问题：", "")
    for lead_in in ("问题可以是：", "问题是："):
        text = text.rpartition(lead_in)[2]
    text = text.strip("\n").strip('"')
    return re.split("[?？]", text, maxsplit=1)[0] + "？"


def _without_lead_in(text: str) -> str:
    """`text` from the first line on that is not mere announcement, if a question follows at all."""
    while (line_end := text.find("\n")) >= 0:
        line, rest = text[:line_end].strip(" \t*_#"), text[line_end:].strip()
        if line and not (
            _LEAD_IN_LINE.fullmatch(line) and (line[-1] in ":：!！.。" and _end_of_question(rest) is not None)
        ):
            break
        text = rest
    return text


def _undecorated(text: str) -> str:
    """`text` without labels, numbers and bullets before it."""
    while True:
        for decoration in (_QUESTION_LABEL, _NUMBER, _BULLET):
            if (found := decoration.match(text)) and found.end():
                text = text[found.end() :].lstrip()
                break
        else:
            return text


def _end_of_question(text: str) -> int | None:
    """Where the first question ends, its mark included; a mark inside an address or between quotes asks nothing."""
    addresses = [found.span() for found in _ADDRESS.finditer(text)]
    greek = ";\u037e" if language(text) == "el" else ""
    for found in re.finditer(f"[{END_MARKS}{greek}]+", text):
        at = found.start()
        inside = any(start < at and found.end() < end for start, end in addresses)
        quoted = at > 0 and text[at - 1] in "\"'`“‘「" and text[found.end() : found.end() + 1] in tuple("\"'`”’」")
        if not inside and not quoted and not _QUERY.match(text, at):
            return at + 1
    return None


def _closed(question: str, rest: str) -> str:
    """`question` without the quotes, bold and code marks that opened before it and closed in the `rest` behind it."""
    question, closed = question.strip(), _CLOSING.match(rest)
    while True:
        for opening, closing in _QUOTES.items():
            left_over = opening in _PLAIN_QUOTES and closing not in question[1:]
            if question.startswith(opening) and (left_over or (closed and closing in closed[0])):
                question = question.removeprefix(opening).lstrip()
                break
        else:
            return question


def _unquoted(text: str) -> str:
    """`text` without one pair of quotes, bold or code marks around all of it."""
    for opening, closing in _QUOTES.items():
        inner = text[len(opening) : -len(closing)]
        wrapped = len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)
        if wrapped and opening not in inner and closing not in inner:
            return inner.strip()
    return text


def _with_mark(text: str) -> str | None:
    """A question that lacks its mark, with it; None for a statement."""
    statement = text.rstrip(" \t.。．")
    if "\n" in statement:
        return None
    tag = language(statement)
    if tag in _WITHOUT_MARK:
        return text
    asks = _ASKS.get(tag)
    if asks is None or not asks.search(statement) or (tag != "ja" and statement != text):
        return None
    return statement + _MARK_OF.get(tag, "?")


def says_nothing(text: str) -> bool:
    """Whether `text` is nothing but blanks, punctuation and control characters."""
    return all(unicodedata.category(c)[0] in "PZC" or unicodedata.category(c) == "Sk" for c in text)


def _copied(text: str, source: str) -> float:
    """Share of the runs of words in `text` that `source` has too."""
    runs = list(_runs(text))
    there = set(_runs(source))
    return sum(run in there for run in runs) / len(runs) if runs else 0.0


def _runs(text: str) -> Iterable[tuple[str, ...]]:
    found = [word.casefold() for word in words(text)]
    return zip(*(found[i:] for i in range(RUN)), strict=False)
