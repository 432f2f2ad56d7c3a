"""The stage `Train`: this round's pairs and a selection of earlier ones become the next adapter.

Optimizer and learning-rate schedule start afresh every round; the adapter goes on from where it was.
"""

from pydantic import JsonValue

from evolution.api.run import Strategy
from evolution.plan.manifest import Record
from evolution.plan.order import Compute
from evolution_trainer.adapter import check_variant
from evolution_trainer.card import model_card
from evolution_trainer.failure import StageFailed
from evolution_trainer.fit import fit, processes, wanted
from evolution_trainer.optimizing import FitParameters
from evolution_trainer.reporters import reporting
from evolution_trainer.rows import Row, read_rows
from evolution_trainer.seeds import seed
from evolution_trainer.selection import select, select_as_reference
from evolution_trainer.stage import Output, Result, StageRun
from evolution_trainer.training_rows import Batches, tokenised


class Choice(Record):
    """`spec.selection`."""

    strategy: Strategy
    size: int
    max_ifd: float | None = None


class Length(Record):
    """Optimizer steps, or passes over the rows."""

    steps: int | None = None
    epochs: float = 1.0


class TrainParameters(FitParameters):
    max_tokens: int
    length: Length
    selection: Choice | None = None


def run(stage: StageRun) -> Result:
    """Inputs: pairs, [pairs.N, scores.N]..., model[, adapter]. Outputs: adapter, log, selection, card.

    Raises:
        StageFailed: NoRows, NodesCannotShare, LossNotFinite, or what is wrong with the adapter's settings.
    """
    parameters = TrainParameters.model_validate(stage.parameters)
    warnings = check_variant(parameters, stage.compute)
    if (used := processes(stage.compute, parameters.batch_size)) < wanted(stage.compute):
        warnings.append(
            f"{used} of {wanted(stage.compute)} processes train{_per_node(stage.compute)}: training.batchSize "
            f"{parameters.batch_size} is divided into equal shares; make it a multiple of the number of GPUs"
        )
    history = chosen_history(stage, parameters, warnings)
    with stage.rows_out("selection") as selection:
        for round_, row in history:
            selection({"id": row["id"], "round": round_})
    pairs = [*read_rows(stage.input("pairs")), *(row for _, row in history)]
    rows, dropped = tokenised(pairs, stage.session, parameters.max_tokens, parameters.rules)
    if dropped:
        warnings.append(
            f"{dropped} of {len(pairs)} training rows are longer than training.maxTokens ({parameters.max_tokens}) "
            "and left out"
        )
    if not rows:
        mend = "raise training.maxTokens" if pairs else "let selection.strategy train pairs of earlier rounds, too"
        raise StageFailed("NoRows", f"none of {len(pairs)} pairs is left to train on; {mend}")

    length, order = parameters.length, seed(parameters.seed, parameters.round, "order")
    batches = Batches.shuffled(rows, parameters.batch_size, length.steps, length.epochs, order)
    adapter = stage.artifacts.fetch_tree(stage.inputs["adapter"]) if "adapter" in stage.inputs else None
    told = reporting(stage)
    with stage.rows_out("log") as log:
        steps = fit(
            stage.session,
            parameters,
            batches,
            adapter,
            stage.scratch,
            stage.progress,
            [told],
            compute=stage.compute,
            checkpoints=stage.checkpoints,
            usage=stage.usage,
            nodes=stage.nodes,
        )
        for step in steps:
            log(step)
    losses = [float(str(step["loss"])) for step in steps]
    last = losses[-10:]
    metrics: dict[str, JsonValue] = {
        "steps": len(steps),
        "loss": round(sum(last) / len(last), 6),
        "firstLoss": round(losses[0], 6),
        "rows": len(rows),
        "history": len(history),
        "tokens": sum(len(row.ids) for row in rows),
    }
    warnings += told.finished(metrics)
    card = stage.scratch / "README.md"
    text = model_card(
        stage.round,
        stage.parameters,
        stage.inputs,
        metrics,
        variant=parameters.variant,
        quantization=parameters.quantization,
    )
    card.write_text(text, encoding="utf-8")
    return Result(
        outputs={
            "adapter": Output(stage.scratch / "adapter"),
            "log": Output(stage.scratch / "log.jsonl", log.count),
            "selection": Output(stage.scratch / "selection.jsonl", selection.count),
            "card": Output(card),
        },
        metrics=metrics,
        warnings=warnings,
    )


def chosen_history(stage: StageRun, parameters: TrainParameters, warnings: list[str]) -> list[tuple[int, Row]]:
    """Pairs of earlier rounds to train again, each with its round."""
    choice = parameters.selection
    if choice is None:
        return []
    rounds = sorted(int(name.removeprefix("pairs.")) for name in stage.inputs if name.startswith("pairs."))
    pool = [(round_, row) for round_ in rounds for row in read_rows(stage.input(f"pairs.{round_}"))]
    scores = [score for round_ in rounds for score in _scores(stage, round_)] or [None] * len(pool)
    drawn = seed(parameters.seed, parameters.round, "selection")
    if parameters.rules == "Reference":
        chosen = select_as_reference(choice.strategy, scores, choice.size, seed=drawn)
    else:
        chosen = select(choice.strategy, scores, choice.size, seed=drawn, max_ifd=choice.max_ifd)
    if choice.strategy not in ("None", "All") and len(chosen) < choice.size:
        warnings.append(
            f"selection.size asks for {choice.size} pairs of earlier rounds, {len(chosen)} can be had "
            f"({len(pool)} in all); all of them are used"
        )
    return [pool[i] for i in chosen]


def _per_node(compute: Compute) -> str:
    return " on each node" if compute.nodes > 1 else ""


def _scores(stage: StageRun, round_: int) -> list[float | None]:
    name = f"scores.{round_}"
    return [row["ifd"] for row in read_rows(stage.input(name))] if name in stage.inputs else []
