"""Scores of an answer against the expected one, each from 0 to 1, and their mean with a bootstrap interval.

A metric is `(prediction, reference) -> score`. `ReferenceBLEU` and `ReferenceROUGE` are the published code's:
characters under BLEU-4, words cut by jieba under ROUGE-L.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from evolution.api.run import Metric
from evolution_trainer.language import words

RESAMPLES = 1000
"""Resamples of the bootstrap."""
LEVEL = 0.95
"""Share of them inside the interval."""
_DRAWS_AT_ONCE = 4_000_000

_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
Score = Callable[[str, str], float]


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are equal but for case, width, blanks and final punctuation."""
    return float(_plain(prediction) == _plain(reference))


def _plain(text: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    while folded and unicodedata.category(folded[-1]).startswith("P"):
        folded = folded[:-1].rstrip()
    return folded


def bleu(prediction: str, reference: str) -> float:
    """sacrebleu's sentence BLEU with effective order; tokenised as Chinese where the reference has CJK characters."""
    return _sacrebleu("zh" if _CJK.search(reference) else "13a")(prediction, reference)


@cache
def _sacrebleu(tokenizer: str) -> Score:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenizer, effective_order=True)
    return lambda prediction, reference: metric.sentence_score(prediction, [reference]).score / 100


def chrf(prediction: str, reference: str) -> float:
    """sacrebleu's chrF: character n-grams up to 6, beta 2."""
    return _chrf()(prediction, reference)


@cache
def _chrf() -> Score:
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    return lambda prediction, reference: metric.sentence_score(prediction, [reference]).score / 100


def rouge_l(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence of words; a CJK character counts as a word."""
    return float(_rouge().score(reference, prediction)["rougeL"].fmeasure)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return words(unicodedata.normalize("NFKC", text).casefold())


def reference_bleu(prediction: str, reference: str) -> float:
    """NLTK's sentence BLEU-4 over characters, smoothing method 3."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # type: ignore[import-untyped]

    return float(sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3))


def reference_rouge(prediction: str, reference: str) -> float:
    """ROUGE-L of rouge-chinese over the words that jieba finds; 0 if one side has none."""
    return reference_rouges(prediction, reference)["rouge-l"]


def reference_rouges(prediction: str, reference: str) -> dict[str, float]:
    """F of rouge-1, rouge-2 and rouge-l as in `reference_rouge`."""
    import jieba  # type: ignore[import-untyped]
    from rouge_chinese import Rouge  # type: ignore[import-untyped]

    jieba.setLogLevel(logging.WARNING)
    hypothesis, expected = " ".join(jieba.cut(prediction)), " ".join(jieba.cut(reference))
    if not hypothesis.split() or not expected.split():
        return {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
    found = Rouge().get_scores(hypothesis, expected)[0]
    return {name: float(values["f"]) for name, values in found.items()}


METRICS: Mapping[Metric, Score] = {
    "ExactMatch": exact_match,
    "BLEU": bleu,
    "ROUGEL": rouge_l,
    "CHRF": chrf,
    "ReferenceBLEU": reference_bleu,
    "ReferenceROUGE": reference_rouge,
}


def measure(metric: Metric, prediction: str, reference: str) -> float | None:
    """The score, 0 to 1, rounded to 6 digits; None where the metric's library fails on the pair."""
    try:
        score = METRICS[metric](prediction, reference)
    except (ArithmeticError, LookupError, RecursionError, ValueError):
        return None
    return round(min(1.0, max(0.0, score)), 6)


def interval(scores: Sequence[float], seed: int) -> tuple[float, float]:
    """Bounds of the mean in 95 % of the bootstrap's resamples."""
    values = np.asarray(scores)
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    means: list[float] = []
    while len(means) < RESAMPLES:
        draws = random.integers(len(values), size=(min(at_once, RESAMPLES - len(means)), len(values)))
        means.extend(values[draws].mean(axis=1))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
