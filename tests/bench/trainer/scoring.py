"""`python -m bench.trainer.scoring`: a thousand pairs scored in batches, and one by one in the plainest way.

Both take the same pairs to the same scores on one CPU thread, in turn; what counts is the ratio of their CPU seconds.
"""

import argparse
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from parity.naive import mean_loss
from small_run import QUICKSTART

from evolution_trainer.loss_cache import opened_cache
from evolution_trainer.losses import Losses
from evolution_trainer.model import ModelSession
from evolution_trainer.rows import Row
from evolution_trainer.score import scored
from evolution_trainer.spans import default_measure

SHARED = Path(__file__).parents[4] / "shared"
AIOPS = Path(os.environ.get("EVOLUTION_DATA_DIR", SHARED / "data")) / "aiops"
PARITY_MODEL = Path(os.environ.get("EVOLUTION_PARITY_DIR", SHARED / "parity")) / "model"
FIGURES = Path(__file__).parents[3] / "docs" / "benchmarks" / "trainer-scoring.json"
MAX_TOKENS = 1024
SENTENCE = re.compile(r"(?<=[。！？!?.])\s*")

Scores = dict[str, float]


def quickstart_pairs() -> Iterator[Row]:
    """The quickstart's questions with pieces of its documents as answers, of one to four sentences: all different."""
    questions = [json.loads(line)["question"] for line in (QUICKSTART / "questions.jsonl").read_text().splitlines()]
    files = sorted((QUICKSTART / "documents").iterdir())
    sentences = [s for file in files for s in SENTENCE.split(file.read_text(encoding="utf-8")) if s.strip()]
    pieces = (" ".join(sentences[i : i + length]) for length in range(1, 5) for i in range(len(sentences)))
    for n, answer in enumerate(dict.fromkeys(pieces)):
        yield {"id": str(n), "question": questions[n % len(questions)], "answer": answer}


def aiops_pairs() -> Iterator[Row]:
    """The evaluation pairs, then documents: their beginning as the question, what follows as the answer."""
    items = json.loads((AIOPS / "AIOps_eval_data.json").read_text(encoding="utf-8"))
    for n, item in enumerate(items):
        yield {"id": f"item-{n}", "question": f"{item['instruction']}{item['input']}", "answer": item["output"]}
    documents = json.loads((AIOPS / "AIOps_data.json").read_text(encoding="utf-8"))
    for n, text in enumerate(dict.fromkeys(document["instruction"] for document in documents)):
        answer = text[40 : 80 + 37 * n % 400]
        if len(answer) > 20:
            yield {"id": f"document-{n}", "question": text[:40], "answer": answer}


def batched(session: ModelSession, pairs: list[Row]) -> Scores:
    """As the stage `Score` does, beginning with an empty cache."""
    with tempfile.TemporaryDirectory() as folder, opened_cache(Path(folder) / "losses", None) as cache:
        found = scored(Losses(session, session.base, cache), pairs, default_measure(session.chat, MAX_TOKENS))
        return {id_: score.ifd for id_, score in found if score.ifd is not None}


def one_by_one(session: ModelSession, pairs: list[Row]) -> Scores:
    chat, model = session.chat, session.base
    found: Scores = {}
    for pair in pairs:
        prompt, answer = chat.prompt(pair["question"]), chat.plain(pair["answer"])
        if answer and len(prompt) + len(answer) <= MAX_TOKENS:
            found[pair["id"]] = mean_loss(model, prompt, answer) / mean_loss(model, chat.assistant_header, answer)
    return found


def measure(name: str, model: Path, pairs: list[Row], repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        session = ModelSession(str(model), Path(cache))
        session.base.eval()
        spans = [m for m in default_measure(session.chat, MAX_TOKENS)(pairs) if not m.reason]
        taken: dict[str, list[float]] = {"batched": [], "oneByOne": []}
        scores: dict[str, Scores] = {}
        for _ in range(repeats):
            for way, function in (("batched", batched), ("oneByOne", one_by_one)):
                scores[way], seconds = _timed(lambda f=function: f(session, pairs))  # type: ignore[misc]
                taken[way].append(seconds)
    assert scores["batched"].keys() == scores["oneByOne"].keys()
    difference = max(abs(score - scores["oneByOne"][id_]) for id_, score in scores["batched"].items())
    assert difference < 1e-5, difference
    ranks = [sorted(found, key=found.__getitem__) for found in scores.values()]
    return {
        "set": name,
        "pairs": len(pairs),
        "scored": len(spans),
        "tokens": sum(len(m.conditional.ids) + len(m.alone.ids) for m in spans),
        "distinctSpans": len({(m.start, m.ids.tobytes()) for pair in spans for m in (pair.conditional, pair.alone)}),
        "parameters": session.base.num_parameters(),
        "batchedCpuSeconds": round(median(taken["batched"]), 2),
        "oneByOneCpuSeconds": round(median(taken["oneByOne"]), 2),
        "ratio": round(median(b / a for a, b in zip(taken["batched"], taken["oneByOne"], strict=True)), 2),
        "ratios": [round(b / a, 2) for a, b in zip(taken["batched"], taken["oneByOne"], strict=True)],
        "largestDifference": float(f"{difference:.1e}"),
        "sameRanks": ranks[0] == ranks[1],
    }


def _timed(work: Callable[[], Scores]) -> tuple[Scores, float]:
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help=f"write {FIGURES.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = [("quickstart", QUICKSTART / "model", quickstart_pairs)]
    if AIOPS.exists() and PARITY_MODEL.exists():
        sets.append(("AIOps", PARITY_MODEL, aiops_pairs))
    figures = {
        "measuredOn": {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "threads": 1,
            "loadBefore": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "sets": [
            measure(name, model, list(islice(pairs(), options.pairs)), options.repeats) for name, model, pairs in sets
        ],
    }
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    print(text)  # noqa: T201
    if options.keep:
        FIGURES.write_text(text + "\n")


if __name__ == "__main__":
    main()
