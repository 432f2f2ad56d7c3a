"""The worker: does the stages of an order one after the other, and commits each."""

import argparse
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from evolution.api.run import Metric
from evolution.plan.gate import after_round
from evolution.plan.manifest import Artifact, Manifest
from evolution.plan.order import Order, OrderStage
from evolution.plan.stage import SEMANTICS, Kind, fingerprint
from evolution.plan.worker import Committed, ExitCode, Failed, ModelLoaded, OrderDone, Ready, Started
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged, Artifacts
from evolution.store.base import ObjectStore, StoreRefused, StoreUnavailable
from evolution.store.cache import cache_folder
from evolution.store.open import open_store
from evolution.store.parts import Parts
from evolution.store.sources import SourceUnusable
from evolution_trainer import pod
from evolution_trainer.channel import EventPipe, OrderPipe, ProgressReporter
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.failure import StageFailed
from evolution_trainer.libraries import import_transformers
from evolution_trainer.model import ModelSession
from evolution_trainer.preemption import Preempted, raise_on_signals
from evolution_trainer.scratch import Scratch
from evolution_trainer.stage import Result, StageRun
from evolution_trainer.timing import Clock, TimedArtifacts, Usage, summed

LIBRARIES = ("evolution", "torch", "transformers", "peft")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the orders; the exit code is one of `ExitCode`, or 1 for a defect of this program."""
    parser = argparse.ArgumentParser(
        prog="evolution-worker", description="Does the stages of an order and commits each."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "order",
        nargs="?",
        help=f"file with one order as JSON; - reads standard input; without one, {pod.ORDER} holds the order",
    )
    source.add_argument(
        "--resident", action="store_true", help="read one order per line of standard input until it ends"
    )
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder for downloads and scratch files")
    options = parser.parse_args(arguments)

    # Read by OpenMP and cuBLAS when torch is imported: threads that wait must not burn the cores of others, and
    # cuBLAS needs a fixed workspace to be deterministic.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    worker = Worker(EventPipe(), options.cache, in_pod=not options.resident and options.order is None)
    raise_on_signals(worker.give_up)
    try:
        return worker.do_all() if options.resident else worker.do_one(options.order)
    except Preempted:
        return ExitCode.PREEMPTED


@dataclass
class Worker:
    """A process that does orders; the model that the last order used stays loaded."""

    pipe: EventPipe
    cache: Path
    in_pod: bool = False
    """Its surroundings tell its order; it waits for a store that is away, and people read what it says."""
    _session: ModelSession | None = None
    _stage: str = ""
    _told: bool = False

    def __post_init__(self) -> None:
        self.scratch = Scratch(self.cache)

    def do_all(self) -> int:
        """Do the orders that come line by line on standard input; returns the exit code."""
        orders = OrderPipe(self.scratch.remove)
        self.pipe.emit(Ready())
        for line in orders:
            if code := self.do(line):
                return code
            orders.finished()
            self.pipe.emit(OrderDone())
            self.pipe.emit(Ready())
        return ExitCode.COMMITTED

    def do_one(self, file: str | None) -> int:
        """Do the order in a file (-: standard input, None: the environment); returns the exit code."""
        try:
            order = _order(file)
        except OSError as error:
            return self._failed(ExitCode.BAD_SPEC, "OrderInvalid", f"the order cannot be read: {error}")
        code = self.do(order)
        if not code:
            self.pipe.emit(OrderDone())
        return code

    def give_up(self) -> None:
        """End the process after a signal, from whichever thread."""
        self.scratch.remove()
        if not self._told:
            self._failed(ExitCode.PREEMPTED, "Preempted", "stopped by a signal")
        os._exit(ExitCode.PREEMPTED)

    def do(self, order: bytes) -> int:
        """Do one order given as JSON; returns the exit code, and says on the pipe what went wrong."""
        self._stage = ""
        try:
            self._do(Order.model_validate_json(order))
        except Preempted:
            return self._failed(ExitCode.PREEMPTED, "Preempted", "stopped by a signal")
        except ValidationError as error:
            return self._failed(ExitCode.BAD_SPEC, "OrderInvalid", f"the order cannot be read: {_first(error)}")
        except StageFailed as error:
            return self._failed(error.code, error.reason, str(error))
        except SourceUnusable as error:
            return self._failed(ExitCode.BAD_INPUT, "SourceUnusable", str(error))
        except ArtifactDamaged as error:
            return self._failed(ExitCode.BAD_INPUT, "ArtifactDamaged", str(error), error.digest)
        except StoreUnavailable as error:
            return self._failed(ExitCode.STORE_UNAVAILABLE, "StoreUnavailable", str(error))
        except StoreRefused as error:
            return self._failed(ExitCode.STORE_UNAVAILABLE, "StoreRefused", str(error))
        except Exception as error:  # the boundary of the process: whatever it is, the parent is told
            traceback.print_exc()
            reason, message = _explain(error)
            return self._failed(1, reason, message)
        return ExitCode.COMMITTED

    def _failed(self, code: int, reason: str, message: str, artifact: str = "") -> int:
        failed = Failed(stage=self._stage, code=code, reason=reason, message=message, artifact=artifact)
        self.pipe.emit(failed)
        pod.leave_message(failed)
        self._told = True
        return code

    def _do(self, order: Order) -> None:
        store = open_store(order.store)
        if self.in_pod:
            pod.wait_for(store)
        if order.shards > 1:
            return self._do_share(order, store)
        outputs: dict[str, Mapping[str, Artifact]] = {}
        verdict = order.gate.verdict if order.gate else None
        for todo in order.stages:
            self._stage = todo.id
            manifest = self._do_stage(order, todo, store, outputs)
            outputs[todo.id] = manifest.outputs
            if order.gate and verdict and todo.kind is Kind.EVALUATE:
                verdict = after_round(order.gate.gate, verdict, todo.round, _score(todo, manifest, order.gate.metric))
                if verdict.stop or verdict.parent != todo.round:
                    then = f"{verdict.stop} ends the run" if verdict.stop else f"back to round {verdict.parent}"
                    print(f"{todo.id}: {then}; the order ends here", file=sys.stderr)  # noqa: T201
                    return None
        return None

    def _do_stage(
        self, order: Order, todo: OrderStage, store: ObjectStore, earlier: Mapping[str, Mapping[str, Artifact]]
    ) -> Manifest:
        doing = self._begin(order, todo, store, {name: _digest(todo, name, earlier) for name in todo.inputs})
        if standing := self._adopted(doing):
            return standing
        with doing.clock.loading():
            run = stage_of(todo.kind)
        return self._commit(doing, self._manifest(doing, run))

    def _do_share(self, order: Order, store: ObjectStore) -> None:
        """This worker's part of the order's one stage; the stage itself, if the others have done theirs."""
        todo = order.stages[0]
        self._stage = todo.id
        shard = pod.shard_index(order.shards)
        inputs = {name: _digest(todo, name, {}) for name in todo.inputs}
        doing = self._begin(order, todo, store, inputs, shard)
        parts = Parts(doing.artifacts, doing.fingerprint, order.shards)
        # The part before the stage: whoever commits the stage removes the parts, and none is done again for that.
        part = parts.read(shard)
        if self._adopted(doing):
            return
        with doing.clock.loading():
            generate = generate_module()
        if part is None:
            parts.commit(shard, self._manifest(doing, lambda run: generate.run_part(run, shard, order.shards)))
        done = parts.all()
        if done is None:
            if standing := _standing(doing.artifacts, doing.fingerprint):
                self.pipe.emit(Committed(stage=todo.id, manifest=standing, adopted=True))
            else:
                print(f"{todo.id}: part {shard + 1} of {order.shards} is done", file=sys.stderr)  # noqa: T201
            return
        merging = self._begin(order, todo, store, inputs, shard)
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
        self._commit(
            merging, merged.model_copy(update={"timings": summed([*(p.timings for p in done), merged.timings])})
        )
        parts.remove()

    def _begin(
        self, order: Order, todo: OrderStage, store: ObjectStore, inputs: Mapping[str, str], shard: int | None = None
    ) -> "Doing":
        name = fingerprint(todo.kind, todo.parameters, inputs)
        clock = Clock()
        progress = ProgressReporter(self.pipe, store, order.run, todo.id, name, shard=shard, rarely=self.in_pod)
        kept = keys.checkpoints(order.run, name) + (f"{shard}-of-{order.shards}/" if shard is not None else "")
        return Doing(
            order,
            todo,
            inputs,
            name,
            clock,
            TimedArtifacts(store, self.cache, clock),
            progress,
            Checkpoints(store, kept, clock, order.compute.checkpoint_seconds),
        )

    def _adopted(self, doing: "Doing") -> Manifest | None:
        """The stage's manifest, if it is done; else its start is told."""
        standing = _standing(doing.artifacts, doing.fingerprint)
        if standing is None:
            self.pipe.emit(Started(stage=doing.todo.id, fingerprint=doing.fingerprint))
        else:
            self.pipe.emit(Committed(stage=doing.todo.id, manifest=standing, adopted=True))
        return standing

    def _manifest(self, doing: "Doing", run: Callable[[StageRun], Result]) -> Manifest:
        """What `run` gives, its outputs stored but nothing committed."""
        todo = doing.todo
        session = self._session_for(doing.order.model)
        session.expect(doing.inputs.get("model"))
        loaded = session.load_seconds
        with self.scratch.folder(doing.fingerprint) as scratch:
            result = run(
                StageRun(
                    id=todo.id,
                    round=todo.round,
                    parameters=todo.parameters,
                    inputs=doing.inputs,
                    model_uri=doing.order.model,
                    artifacts=doing.artifacts,
                    scratch=scratch,
                    session=session,
                    progress=doing.progress,
                    checkpoints=doing.checkpoints,
                    compute=doing.order.compute,
                    usage=doing.usage,
                )
            )
            outputs = {
                output: doing.artifacts.put_tree(made.path)
                if made.path.is_dir()
                else doing.artifacts.put_file(made.path, made.count)
                for output, made in result.outputs.items()
            }
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
            timings=doing.clock.timings(session.load_seconds - loaded),
            versions=versions(),
            attempt=todo.attempt,
            run=doing.order.run,
        )

    def _commit(self, doing: "Doing", made: Manifest) -> Manifest:
        manifest, created = doing.artifacts.commit(made)
        doing.checkpoints.remove()
        self.pipe.emit(Committed(stage=doing.todo.id, manifest=manifest, adopted=not created))
        return manifest

    def _session_for(self, uri: str) -> ModelSession:
        if self._session is None or self._session.uri != uri:
            self._session = None  # the old model leaves memory before the new one comes
            self._session = ModelSession(
                uri, self.cache, on_load=lambda seconds: self.pipe.emit(ModelLoaded(seconds=round(seconds, 3)))
            )
        return self._session


@dataclass
class Doing:
    """A stage of an order while it is done."""

    order: Order
    todo: OrderStage
    inputs: Mapping[str, str]
    """Digest of every input by name."""
    fingerprint: str
    clock: Clock
    artifacts: TimedArtifacts
    progress: ProgressReporter
    checkpoints: Checkpoints
    usage: Usage = field(default_factory=Usage)


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


def _order(file: str | None) -> bytes:
    if file is None:
        if pod.ORDER not in os.environ:
            raise OSError(f"there is no {pod.ORDER} in the environment; set it, or name a file with the order")
        return os.environb[pod.ORDER.encode()]
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


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


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "OutOfMemory", f"not enough memory even for one row at a time: {error}"
    return "InternalError", f"{type(error).__name__}: {error} (a defect of the worker; its log has the traceback)"


def _first(error: ValidationError) -> str:
    details = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, details['loc'])) or 'the document'}: {details['msg']}"
