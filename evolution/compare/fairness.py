"""What would make a comparison say something else than which arm is better."""

from collections.abc import Iterator, Sequence

from evolution.api.run import EvolutionRun
from evolution.compare.arms import Member
from evolution.plan.gate import decides


def warnings(members: Sequence[Member]) -> Iterator[str]:
    """Sentences for people, each with what would be right: unequal training, rounds that differ or may be cut short."""
    runs = {member.arm: member.run for member in members}
    specs = {arm: run.spec for arm, run in runs.items()}
    by_epochs = [arm for arm, spec in specs.items() if not spec.training.max_steps]
    if by_epochs:
        yield (
            f"{_listed(by_epochs)}: training.maxSteps is 0, so an arm with more pairs trains longer, and a difference "
            "may be due to that alone; give the file training: {maxSteps: N}"
        )
    elif len({_rows(run) for run in runs.values()}) > 1:
        told = ", ".join(f"{arm} {spec.training.max_steps} × {spec.training.batch_size}" for arm, spec in specs.items())
        yield f"the arms do not train on equally many rows per round (steps × batch): {told}"
    if len({spec.rounds for spec in specs.values()}) > 1:
        yield f"the arms have different numbers of rounds: {', '.join(f'{a} {s.rounds}' for a, s in specs.items())}"
    gated = [arm for arm, spec in specs.items() if decides(spec.gate)]
    if gated:
        yield (
            f"{_listed(gated)}: the gate may end an arm early or take it back a round; for equal rounds give the file "
            "gate: {patience: 0, onRegression: Continue}"
        )


def _rows(run: EvolutionRun) -> int:
    return run.spec.training.max_steps * run.spec.training.batch_size


def _listed(arms: Sequence[str]) -> str:
    return ", ".join(arms)
