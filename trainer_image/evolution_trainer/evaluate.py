"""The stage `Evaluate`: held-out questions, answered without any document, scored against the expected answers."""

from array import array
from collections import Counter
from itertools import islice
from pathlib import Path

from pydantic import JsonValue

from evolution.api.run import Metric
from evolution.plan.manifest import Record
from evolution_trainer.clean import question_key
from evolution_trainer.engine import opened_engine
from evolution_trainer.failure import StageFailed
from evolution_trainer.metrics import interval, measure
from evolution_trainer.rows import count_rows, read_rows
from evolution_trainer.seeds import seed
from evolution_trainer.stage import Output, Result, StageRun
from evolution_trainer.writer import count_usage, paced


class EvaluateParameters(Record):
    metrics: tuple[Metric, ...]
    max_tokens: int


def run(stage: StageRun) -> Result:
    """Inputs: items, model[, adapter][, pairs]. Output: predictions."""
    parameters = EvaluateParameters.model_validate(stage.parameters)
    items = stage.input("items")
    total = count_rows(items)
    if not total:
        raise StageFailed("NoItems", "the evaluation set has no items")
    scores: dict[Metric, array[float]] = {metric: array("d") for metric in parameters.metrics}
    failed: Counter[str] = Counter()
    too_long = 0
    answers = _answered(stage, items, parameters.max_tokens, total)
    with stage.rows_out("predictions") as predictions:
        for item, answer in zip(read_rows(items), read_rows(answers), strict=True):
            too_long += answer["tooLong"]
            found: dict[str, JsonValue] = {}
            for metric in parameters.metrics:
                score = measure(metric, answer["text"], item["answer"])
                failed[metric] += score is None
                scores[metric].append(score or 0.0)
                found[metric] = score or 0.0
            predictions({**item, "prediction": answer["text"], "scores": found})

    overlap = _overlap(stage)
    warnings = [
        f"{metric} could not be computed for {count} of {total} answers, which count as 0"
        for metric, count in failed.items()
        if count
    ]
    if too_long:
        warnings.append(
            f"{too_long} of {total} questions are longer than the model's window of {stage.session.window} tokens "
            "and count as not answered"
        )
    if overlap:
        warnings.append(
            f"{overlap} of {total} evaluation questions were also asked in this round's training pairs: "
            "the scores measure memory of these, not generalisation"
        )
    return Result(
        outputs={"predictions": Output(stage.scratch / "predictions.jsonl", predictions.count)},
        metrics={"scores": {metric: _summary(values) for metric, values in scores.items()}, "overlap": overlap},
        warnings=warnings,
    )


def _answered(stage: StageRun, items: Path, max_tokens: int, total: int) -> Path:
    """A file with the model's answer to each item, whatever an interrupted worker has left of it included."""
    done = 0

    def on_done(more: int) -> None:
        nonlocal done
        done += more
        stage.progress("items", done, total)

    adapter = stage.artifacts.fetch_tree(stage.inputs["adapter"]) if "adapter" in stage.inputs else None
    with (
        opened_engine(stage.session, stage.compute, adapter) as engine,
        stage.journal("answers") as answers,
    ):
        on_done(answers.count)
        for window in paced(islice(read_rows(items), answers.count, None), stage.checkpoints.interval):
            prompts = [stage.session.chat.prompt(item["question"]) for item in window]
            fitting = [i for i, prompt in enumerate(prompts) if engine.fits(prompt)]
            on_done(len(window) - len(fitting))
            asked = [prompts[i] for i in fitting]
            written = engine.generate(
                asked, [0] * len(asked), temperature=0.0, top_p=1.0, max_tokens=max_tokens, on_done=on_done
            )
            count_usage(stage, asked, written)
            replies = dict(zip(fitting, written, strict=True))
            answers(
                *(
                    {"text": replies[i].text if i in replies else "", "tooLong": i not in replies}
                    for i in range(len(window))
                )
            )
    return answers.path


def _summary(scores: "array[float]") -> dict[str, JsonValue]:
    low, high = interval(scores, seed("bootstrap"))
    mean = sum(scores) / len(scores)
    return {"mean": round(mean, 6), "low": round(low, 6), "high": round(high, 6), "n": len(scores)}


def _overlap(stage: StageRun) -> int:
    """Evaluation questions that one of this round's pairs asks too."""
    if "pairs" not in stage.inputs:
        return 0
    wanted = Counter(question_key(item["question"]) for item in read_rows(stage.input("items")))
    asked = {key for row in read_rows(stage.input("pairs")) if (key := question_key(row["question"])) in wanted}
    return sum(wanted[key] for key in asked)
