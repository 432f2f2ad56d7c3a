"""Doing the stages of an order one after the other, each committed before the next begins."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from evolution.api.run import Metric
from evolution.plan.gate import after_round
from evolution.plan.manifest import Artifact, Manifest, Usage
from evolution.plan.order import Order, OrderStage
from evolution.plan.stage import SEMANTICS, Kind, fingerprint
from evolution.plan.tally import Spending, came_out, spent, spent_on_committed
from evolution.plan.worker import Committed, ExitCode, Started
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged, Artifacts
from evolution.store.base import ObjectStore
from evolution.store.parts import Parts
from evolution_trainer import pod
from evolution_trainer.accounts import Account
from evolution_trainer.channel import EventPipe, ProgressReporter
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.failure import StageFailed
from evolution_trainer.libraries import import_transformers
from evolution_trainer.model import ModelSession
from evolution_trainer.preemption import deferred
from evolution_trainer.round_figures import RoundFigures
from evolution_trainer.scratch import Scratch
from evolution_trainer.stage import ReportProgress, Result, StageRun
from evolution_trainer.timing import Clock, TimedArtifacts, summed
from evolution_trainer.usage import Meter, together

if TYPE_CHECKING:
    from evolution_trainer.nodes import Nodes

LIBRARIES = ("evolution", "torch", "transformers", "peft")


@dataclass
class Execution:
    """An order while it is done."""

    order: Order
    store: ObjectStore
    session: ModelSession
    pipe: EventPipe
    cache: Path
    scratch: Scratch
    in_pod: bool
    account: Account
    stage: str = ""
    """Id of the stage that is being done."""

    def __post_init__(self) -> None:
        self.figures = RoundFigures(self.order)

    def do(self) -> None:
        """All its stages, or its part of the one that this worker shares with others."""
        order = self.order
        if order.shards > 1:
            return self._do_share()
        if order.compute.nodes > 1:
            return self._do_together()
        outputs: dict[str, Mapping[str, Artifact]] = {}
        verdict = order.gate.verdict if order.gate else None
        for todo in order.stages:
            self.stage = todo.id
            manifest = self._do_stage(todo, outputs)
            outputs[todo.id] = manifest.outputs
            if order.gate and verdict and todo.kind is Kind.EVALUATE:
                verdict = after_round(order.gate.gate, verdict, todo.round, _score(todo, manifest, order.gate.metric))
                if verdict.stop or verdict.parent != todo.round:
                    then = f"{verdict.stop} ends the run" if verdict.stop else f"back to round {verdict.parent}"
                    print(f"{todo.id}: {then}; the order ends here", file=sys.stderr)  # noqa: T201
                    return None
        return None

    def _do_stage(self, todo: OrderStage, earlier: Mapping[str, Mapping[str, Artifact]]) -> Manifest:
        doing = self._begin(todo, {name: _digest(todo, name, earlier) for name in todo.inputs})
        if standing := self._adopted(doing):
            return standing
        with doing.clock.loading():
            run = stage_of(todo.kind)
        made = self._manifest(doing, run)
        return self._commit(doing, made, spent_on_committed(made))

    def _do_share(self) -> None:
        """This worker's part of the order's one stage; the stage itself, if the others have done theirs."""
        order, todo = self.order, self.order.stages[0]
        self.stage = todo.id
        shard = pod.shard_index(order.shards)
        inputs = {name: _digest(todo, name, {}) for name in todo.inputs}
        doing = self._begin(todo, inputs, shard)
        parts = Parts(doing.artifacts, doing.fingerprint, order.shards)
        # The part before the stage: whoever commits the stage removes the parts, and none is done again for that.
        part = parts.read(shard)
        if self._adopted(doing):
            return
        with doing.clock.loading():
            generate = generate_module()
        if part is None:
            made = self._manifest(doing, lambda run: generate.run_part(run, shard, order.shards))
            with deferred():
                parts.commit(shard, made)
                if parts.read(shard) in (made, None):  # None: the stage is done, and its parts are gone
                    self.account.committed(spent(made.timings, made.usage, made.kind))
                else:
                    self.account.in_vain()
            doing.checkpoints.remove()
        else:
            self.account.found_done()
        done = parts.all()
        if done is None:
            if standing := doing.standing():
                self.pipe.emit(Committed(stage=todo.id, manifest=standing, adopted=True))
            else:
                print(f"{todo.id}: part {shard + 1} of {order.shards} is done", file=sys.stderr)  # noqa: T201
            return
        merging = self._begin(todo, inputs, shard)
        try:
            merged = self._manifest(
                merging, lambda run: generate.merge(run, [generate.fetched(run, part.outputs) for part in done])
            )
        except ArtifactDamaged as damage:
            if not parts.discard_damaged():
                raise
            # Retried, not counted: nothing is wrong but what has just been removed.
            message = f"{damage}; that part is done again"
            raise StageFailed("PartDamaged", message, ExitCode.STORE_UNAVAILABLE) from damage
        whole = {
            "timings": summed([*(part.timings for part in done), merged.timings]),
            "usage": together([*(part.usage for part in done), merged.usage]),
        }
        mine = spent(merged.timings, merged.usage, merged.kind) + came_out(merged)
        self._commit(merging, merged.model_copy(update=whole), mine)
        parts.remove()

    def _do_together(self) -> None:
        """The order's one stage, by workers on several nodes that compute each step together. Node 0 leads: it alone
        writes to the store, and tells how far the stage is.
        """
        order, todo = self.order, self.order.stages[0]
        if [stage.kind for stage in order.stages] != [Kind.TRAIN]:
            message = f"only an order of one Train stage can be done by {order.compute.nodes} nodes together"
            raise StageFailed("OrderInvalid", message, ExitCode.BAD_SPEC)
        self.stage = todo.id
        place = pod.place(order.compute.nodes)
        doing = self._begin(todo, {name: _digest(todo, name, {}) for name in todo.inputs})
        if place.node == 0:
            self._lead(doing, place)
        else:
            self._follow(doing, place)

    def _lead(self, doing: "Doing", place: pod.Place) -> None:
        if self._adopted(doing):
            return
        with doing.clock.loading():
            run = stage_of(Kind.TRAIN)
            from evolution_trainer.nodes import Leader, StageDone

        nodes = Leader(place, doing.done, doing.clock, doing.progress)
        try:
            made = self._manifest(doing, run, nodes)
        except StageDone:
            self.account.in_vain()
            self._adopted(doing)
            return
        self._commit(doing, made, spent_on_committed(made))
        nodes.committed()

    def _follow(self, doing: "Doing", place: pod.Place) -> None:
        who = f"{doing.todo.id}: node {place.node} of {place.nodes}"
        if doing.done():
            self.account.found_done()
            print(f"{who} finds it done", file=sys.stderr)  # noqa: T201
            return
        with doing.clock.loading():
            run = stage_of(Kind.TRAIN)
            from evolution_trainer.nodes import Follower, StageDone

        nodes = Follower(place, doing.done, doing.clock)
        quiet = replace(doing, progress=lambda *_, **__: None)
        try:
            with self._stage_run(quiet, nodes) as stage:
                run(replace(stage, compute=stage.compute.model_copy(update={"reporters": ()})))
            nodes.until_committed()
        except StageDone:
            self.account.in_vain()
            print(f"{who} is not needed: it is done", file=sys.stderr)  # noqa: T201
            return
        if (manifest := doing.standing()) and manifest.run == self.order.run:
            self.account.committed(spent(doing.clock.timings(), Usage(), Kind.TRAIN))
        else:
            self.account.in_vain()
        print(f"{who} has done its part", file=sys.stderr)  # noqa: T201

    def _begin(self, todo: OrderStage, inputs: Mapping[str, str], shard: int | None = None) -> "Doing":
        order, store = self.order, self.store
        name = fingerprint(todo.kind, todo.parameters, inputs)
        clock, tally = self.account.clock, self.account.tally
        progress = ProgressReporter(self.pipe, store, order.run, todo.id, name, tally, shard=shard, rarely=self.in_pod)
        kept = keys.checkpoints(order.run, name) + (f"{shard}-of-{order.shards}/" if shard is not None else "")
        checkpoints = Checkpoints(store, kept, clock, order.compute.checkpoint_seconds)
        self.account.begin(todo.kind, name, checkpoints)
        return Doing(todo, inputs, name, clock, TimedArtifacts(store, self.cache, clock), progress, checkpoints)

    def _adopted(self, doing: "Doing") -> Manifest | None:
        """The stage's manifest, if it is done; else its start is told."""
        standing = doing.standing()
        if standing is None:
            self.pipe.emit(Started(stage=doing.todo.id, fingerprint=doing.fingerprint))
        else:
            self.account.found_done()
            self.pipe.emit(Committed(stage=doing.todo.id, manifest=standing, adopted=True))
        return standing

    @contextmanager
    def _stage_run(self, doing: "Doing", nodes: "Nodes | None" = None) -> Iterator[StageRun]:
        """What the stage is given, while it is done."""
        todo, session = doing.todo, self.session
        session.expect(doing.inputs.get("model"), doing.progress, doing.clock)
        with self.scratch.folder(doing.fingerprint) as scratch:
            yield StageRun(
                run=self.order.run,
                id=todo.id,
                round=todo.round,
                parameters=todo.parameters,
                inputs=doing.inputs,
                model_uri=self.order.model,
                artifacts=doing.artifacts,
                scratch=scratch,
                session=session,
                progress=doing.progress,
                checkpoints=doing.checkpoints,
                compute=self.order.compute,
                usage=doing.usage,
                nodes=nodes,
            )

    def _manifest(self, doing: "Doing", run: Callable[[StageRun], Result], nodes: "Nodes | None" = None) -> Manifest:
        """What `run` gives, its outputs stored but nothing committed."""
        todo = doing.todo
        with self._stage_run(doing, nodes) as stage:
            result = run(stage)
            outputs = {
                output: doing.artifacts.put_tree(made.path)
                if made.path.is_dir()
                else doing.artifacts.put_file(made.path, made.count)
                for output, made in result.outputs.items()
            }
        timings = doing.clock.timings(self.order.compute.nodes)
        return Manifest(
            fingerprint=doing.fingerprint,
            kind=todo.kind,
            semantics=SEMANTICS[todo.kind],
            round=todo.round,
            parameters=todo.parameters,
            inputs=dict(doing.inputs),
            outputs=outputs,
            metrics=dict(result.metrics),
            warnings=result.warnings,
            timings=timings,
            usage=doing.usage.read(timings.work, self.order.compute.nodes),
            versions=versions(),
            attempt=todo.attempt,
            run=self.order.run,
        )

    def _commit(self, doing: "Doing", made: Manifest, mine: Spending) -> Manifest:
        """The stage's manifest, once it is done; `mine` is what this worker has spent on it."""
        with deferred():
            manifest, created = doing.artifacts.commit(made)
            if created:
                self.account.committed(mine)
            else:
                self.account.in_vain()
        doing.checkpoints.remove()
        self.pipe.emit(Committed(stage=doing.todo.id, manifest=manifest, adopted=not created))
        if created:
            self.figures.committed(manifest)
        return manifest


@dataclass
class Doing:
    """A stage of an order while it is done."""

    todo: OrderStage
    inputs: Mapping[str, str]
    """Digest of every input by name."""
    fingerprint: str
    clock: Clock
    artifacts: TimedArtifacts
    progress: ReportProgress
    checkpoints: Checkpoints
    usage: Meter = field(default_factory=Meter)

    def standing(self) -> Manifest | None:
        """The stage's manifest, once it is done."""
        return _standing(self.artifacts, self.fingerprint)

    def done(self) -> bool:
        return self.standing() is not None


def generate_module() -> ModuleType:
    import_transformers()
    from evolution_trainer import generate

    return generate


def stage_of(kind: Kind) -> Callable[[StageRun], Result]:
    """What does stages of that kind. Imported at need, because some of it takes seconds to load."""
    match kind:
        case Kind.PREPARE:
            from evolution_trainer import prepare

            return prepare.run
        case Kind.GENERATE:
            run: Callable[[StageRun], Result] = generate_module().run
            return run
        case Kind.SCORE:
            import_transformers()
            from evolution_trainer import score

            return score.run
        case Kind.TRAIN:
            import_transformers()
            from evolution_trainer import train

            return train.run
        case Kind.EVALUATE:
            import_transformers()
            from evolution_trainer import evaluate

            return evaluate.run
        case Kind.PUBLISH:
            from evolution_trainer import publish

            return publish.run


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def _score(todo: OrderStage, evaluated: Manifest, metric: Metric) -> float:
    if metric not in evaluated.scores:
        measured = ", ".join(evaluated.scores) or "nothing"
        raise StageFailed(
            "OrderInvalid", f"{todo.id}: the gate asks for {metric}, but {measured} is measured", ExitCode.BAD_SPEC
        )
    return evaluated.scores[metric]


def _standing(artifacts: Artifacts, name: str) -> Manifest | None:
    try:
        return artifacts.manifest(name)
    except ArtifactDamaged as damage:
        print(f"{damage}; the stage runs again", file=sys.stderr)  # noqa: T201
        artifacts.forget(name)
        return None


def _digest(todo: OrderStage, name: str, earlier: Mapping[str, Mapping[str, Artifact]]) -> str:
    source = todo.inputs[name]
    if source.digest is not None:
        return source.digest
    outputs = earlier.get(source.stage or "", {})
    if source.output is None or source.output not in outputs:
        raise StageFailed(
            "OrderInvalid",
            f"{todo.id}: input {name} is {source.output} of {source.stage}, which no earlier stage of the order makes",
            ExitCode.BAD_SPEC,
        )
    return outputs[source.output].digest
