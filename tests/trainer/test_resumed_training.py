"""A training that was interrupted goes on from its newest checkpoint and ends as if nothing had happened."""

import copy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import TRAIN, Bench, Done, pair

from evolution.plan.order import Compute
from evolution.store.base import StoreUnavailable
from evolution_trainer import fit as fitting
from evolution_trainer import train
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.optimizing import flops_per_token
from evolution_trainer.stage import StageRun
from evolution_trainer.timing import Clock

PAIRS = [pair(i, answer="seven " * (i % 4 + 1)) for i in range(14)]
SEVEN_STEPS = {**TRAIN, "length": {"steps": 7}}


class Killed(BaseException):
    """What ends a process leaves no time for anything."""


@dataclass
class Course:
    """One training after another of the same stage, with a checkpoint after every step."""

    bench: Bench
    parameters: dict[str, Any] = field(default_factory=lambda: SEVEN_STEPS)
    compute: Compute = field(default_factory=Compute)

    def stage(self, killed_after: int | None = None) -> StageRun:
        stage = self.bench.stage(self.parameters, pairs=self.bench.put(PAIRS))
        checkpoints = Checkpoints(self.bench.artifacts.store, "runs/r/checkpoints/f/", Clock(), interval=0.0)

        def progress(phase: str, done: int, total: int, note: str = "") -> None:
            stage.progress(phase, done, total, note)
            if done == killed_after:
                raise Killed

        return replace(stage, checkpoints=checkpoints, compute=self.compute, progress=progress)

    def killed_after(self, step: int) -> None:
        with pytest.raises(Killed):
            train.run(self.stage(step))

    def finished(self) -> Done:
        return Done(train.run(self.stage()), self.bench.artifacts)

    def steps_of(self, training: Any) -> tuple[list[int], Any]:
        """The steps that were reported while `training` was called, and what it gave."""
        before = len(self.bench.progress)
        done = training()
        return [step for phase, step, _ in self.bench.progress[before:] if phase == "steps"], done

    @property
    def saved(self) -> list[str]:
        return [found.key for found in self.bench.artifacts.store.list("runs/r/checkpoints/f/training/")]


@pytest.fixture
def course(bench: Bench) -> Course:
    return Course(bench)


def same(first: Done, second: Done) -> bool:
    return all(first.digest(name) == second.digest(name) for name in ("adapter", "log", "selection", "card"))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_it_ends_with_the_same_bytes_also_with_dropout(bench: Bench, dropout: float) -> None:
    parameters = {**SEVEN_STEPS, "dropout": dropout}
    undisturbed = bench.do(train, parameters, pairs=bench.put(PAIRS))
    course = Course(bench, parameters)
    course.killed_after(3)
    course.killed_after(6)
    steps, done = course.steps_of(course.finished)
    assert steps == [5, 6, 7]
    assert same(done, undisturbed)


def test_a_training_that_was_interrupted_after_its_last_step_is_only_put_away(course: Course) -> None:
    undisturbed = course.finished()
    [listing] = [key for key in course.saved if key.endswith(".json")]
    assert "/000000000006-" in listing, "the last step is followed by the adapter itself"
    steps, done = course.steps_of(course.finished)
    assert steps == [6, 7]
    assert same(done, undisturbed)


def test_only_the_newest_checkpoint_is_kept(course: Course) -> None:
    course.killed_after(2)
    first = course.saved
    course.killed_after(5)
    assert len(course.saved) == len(first)
    assert len([key for key in course.saved if "/files/" not in key]) == 1
    assert "/000000000004-" in course.saved[0]


def test_a_checkpoint_that_was_not_uploaded_whole_is_as_good_as_none(course: Course) -> None:
    undisturbed = course.finished()
    store = course.bench.artifacts.store
    for key in course.saved:
        store.delete(key)
    store.upload = failing_after(3, store.upload)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        course.finished()
    del store.upload
    assert len(course.saved) == 3
    steps, done = course.steps_of(course.finished)
    assert steps == list(range(1, 8))
    assert same(done, undisturbed)


def failing_after(times: int, upload: Any) -> Any:
    left = iter(range(times))

    def failing(path: Path, key: str) -> None:
        if next(left, None) is None:
            raise Killed
        upload(path, key)

    return failing


def test_a_damaged_checkpoint_is_as_good_as_none(course: Course) -> None:
    course.killed_after(4)
    store = course.bench.artifacts.store
    largest = max(store.list("runs/r/checkpoints/f/training/files/"), key=lambda found: found.size)
    data = store.read(largest.key)
    assert data is not None
    store.write(largest.key, data[:-1] + b"!")
    steps, _ = course.steps_of(course.finished)
    assert steps == list(range(1, 8))


def test_a_checkpoint_of_other_libraries_is_as_good_as_none(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    course.killed_after(4)
    monkeypatch.setattr(fitting, "LIBRARIES", ("torch", "transformers"))
    steps, _ = course.steps_of(course.finished)
    assert steps == list(range(1, 8))


def test_a_store_that_is_away_for_a_while_costs_a_checkpoint_and_no_training(
    course: Course, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("the store does not answer")

    stage = course.stage()
    monkeypatch.setattr(course.bench.artifacts.store, "upload", away)
    train.run(stage)
    assert "the checkpoint of step 3 is not kept: the store does not answer" in capsys.readouterr().err
    assert course.saved == []


def test_between_checkpoints_time_goes_by(course: Course) -> None:
    stage = course.stage()
    seldom = replace(stage, checkpoints=replace(stage.checkpoints, interval=3600.0))
    train.run(seldom)
    assert course.saved == []


def test_tokens_and_operations_are_those_of_the_steps_that_were_done_here(course: Course) -> None:
    whole = course.stage()
    train.run(whole)
    for key in course.saved:
        course.bench.artifacts.store.delete(key)
    course.killed_after(4)
    rest = course.stage()
    train.run(rest)
    weights = sum(p.numel() for p in course.bench.session.base.parameters())
    assert 0 < rest.usage.tokens_in < whole.usage.tokens_in
    assert 3 * weights < whole.usage.flops / whole.usage.tokens_in < 5 * weights
    assert rest.usage.flops / rest.usage.tokens_in == pytest.approx(whole.usage.flops / whole.usage.tokens_in)


def test_weights_of_four_bits_count_as_weights_though_two_share_a_byte(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Params4bit(torch.nn.Parameter): ...

    model: Any = copy.deepcopy(course.bench.session.base)
    in_full = flops_per_token(model)
    halved = model.model.layers[0].mlp.down_proj
    packed = torch.zeros(halved.weight.numel() // 2, 1, dtype=torch.uint8)
    halved.weight = Params4bit(packed, requires_grad=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=SimpleNamespace(Params4bit=Params4bit)))
    model.is_loaded_in_4bit = True
    assert flops_per_token(model) == in_full


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")],
)
def test_where_memory_runs_out_half_as_much_is_computed_at_once_from_the_newest_checkpoint_on(
    course: Course, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    monkeypatch.setattr(course.bench.session, "halvings", 0)
    monkeypatch.setattr(fitting, "TOKEN_BUDGET", {"cpu": 4 * 45})
    undisturbed = Done(
        train.run(replace(course.stage(), checkpoints=course.bench.stage({}).checkpoints)), course.bench.artifacts
    )
    rows_at_once: list[int] = []
    forward = course.bench.session.base.forward

    def short_of_memory(*args: Any, **kwargs: Any) -> Any:
        rows_at_once.append(len(kwargs["input_ids"]))
        if len(rows_at_once) >= 5 and rows_at_once[-1] > 2:
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(course.bench.session.base, "forward", short_of_memory)
    steps, done = course.steps_of(course.finished)
    assert rows_at_once[:5] == [4] * 5
    assert set(rows_at_once[5:]) == {2}
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7]
    assert [row["loss"] for row in done.rows("log")] == pytest.approx(
        [row["loss"] for row in undisturbed.rows("log")], abs=1e-5
    )


def test_where_a_batch_is_far_from_the_budget_the_next_attempt_computes_less_all_the_same(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course.bench.session, "halvings", 0)
    rows_at_once: list[int] = []
    forward = course.bench.session.base.forward

    def short_of_memory(*args: Any, **kwargs: Any) -> Any:
        rows_at_once.append(len(kwargs["input_ids"]))
        if rows_at_once[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(course.bench.session.base, "forward", short_of_memory)
    course.finished()
    assert rows_at_once[:2] == [4, 2]


def test_recomputing_activations_gives_the_same_losses(course: Course) -> None:
    whole = course.finished()
    again = Course(course.bench, compute=Compute(gradient_checkpointing=True))
    for key in course.saved:
        course.bench.artifacts.store.delete(key)
    recomputed = again.finished()
    assert not course.bench.session.base.is_gradient_checkpointing
    first, second = whole.rows("log"), recomputed.rows("log")
    assert [row["loss"] for row in first] == pytest.approx([row["loss"] for row in second], abs=1e-6)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(course: Course) -> None:
    alone = course.finished()
    for key in course.saved:
        course.bench.artifacts.store.delete(key)
    pair_ = Course(course.bench, compute=Compute(processes=2))
    together = pair_.finished()
    losses = [[row["loss"] for row in done.rows("log")] for done in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    weights = [load_file(d.result.outputs["adapter"].path / "adapter_model.safetensors") for d in (alone, together)]
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-6), name
