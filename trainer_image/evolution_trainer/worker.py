"""The worker: does the stages of an order one after the other, and commits each."""

import argparse
import importlib.metadata
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from evolution.plan.manifest import Artifact, Manifest
from evolution.plan.order import Order, OrderStage
from evolution.plan.stage import SEMANTICS, Kind, fingerprint
from evolution.plan.worker import Committed, ExitCode, Failed, ModelLoaded, OrderDone, Ready, Started
from evolution.store.artifacts import ArtifactDamaged, Artifacts
from evolution.store.base import ObjectStore, StoreRefused, StoreUnavailable
from evolution.store.cache import cache_folder
from evolution.store.open import open_store
from evolution.store.sources import SourceUnusable
from evolution_trainer.channel import EventPipe, OrderPipe, ProgressReporter
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.stage import Result, StageRun
from evolution_trainer.timing import Clock, TimedArtifacts

LIBRARIES = ("evolution", "torch", "transformers", "peft")


class Preempted(BaseException):
    """SIGTERM or SIGINT arrived."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the orders; the exit code is one of `ExitCode`, or 1 for a defect of this program."""
    parser = argparse.ArgumentParser(
        prog="evolution-worker", description="Does the stages of an order and commits each."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("order", nargs="?", help="file with one order as JSON; - reads standard input")
    source.add_argument(
        "--resident", action="store_true", help="read one order per line of standard input until it ends"
    )
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder for downloads and scratch files")
    options = parser.parse_args(arguments)

    # Read by OpenMP and cuBLAS when torch is imported: threads that wait must not burn the cores of others, and
    # cuBLAS needs a fixed workspace to be deterministic.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    signal.signal(signal.SIGTERM, _preempt)
    signal.signal(signal.SIGINT, _preempt)
    worker = Worker(EventPipe(), options.cache)
    if not options.resident:
        return worker.do_one(options.order)
    orders = OrderPipe(worker.remove_scratch)
    worker.pipe.emit(Ready())
    try:
        for line in orders:
            if code := worker.do(line):
                return code
            orders.finished()
            worker.pipe.emit(OrderDone())
            worker.pipe.emit(Ready())
    except Preempted:
        return ExitCode.PREEMPTED
    return ExitCode.COMMITTED


def _preempt(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Preempted


@dataclass
class Worker:
    """A process that does orders; the model that the last order used stays loaded."""

    pipe: EventPipe
    cache: Path
    _session: ModelSession | None = None
    _scratch: Path | None = None

    def do_one(self, file: str) -> int:
        """Do the order in a file (-: standard input); returns the exit code."""
        try:
            order = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            return self._failed("", ExitCode.BAD_SPEC, "OrderInvalid", f"the order cannot be read: {error}")
        code = self.do(order)
        if not code:
            self.pipe.emit(OrderDone())
        return code

    def do(self, order: bytes) -> int:
        """Do one order given as JSON; returns the exit code, and says on the pipe what went wrong."""
        stage = ""
        try:
            parsed = Order.model_validate_json(order)
            store = open_store(parsed.store)
            outputs: dict[str, Mapping[str, Artifact]] = {}
            for todo in parsed.stages:
                stage = todo.id
                outputs[stage] = self._stage(parsed, todo, store, outputs).outputs
        except Preempted:
            return self._failed(stage, ExitCode.PREEMPTED, "Preempted", "stopped by a signal")
        except ValidationError as error:
            return self._failed(stage, ExitCode.BAD_SPEC, "OrderInvalid", f"the order cannot be read: {_first(error)}")
        except StageFailed as error:
            return self._failed(stage, error.code, error.reason, str(error))
        except SourceUnusable as error:
            return self._failed(stage, ExitCode.BAD_INPUT, "SourceUnusable", str(error))
        except ArtifactDamaged as error:
            return self._failed(stage, ExitCode.BAD_INPUT, "ArtifactDamaged", str(error), error.digest)
        except StoreUnavailable as error:
            return self._failed(stage, ExitCode.STORE_UNAVAILABLE, "StoreUnavailable", str(error))
        except StoreRefused as error:
            return self._failed(stage, ExitCode.STORE_UNAVAILABLE, "StoreRefused", str(error))
        except Exception as error:  # the boundary of the process: whatever it is, the parent is told
            traceback.print_exc()
            reason, message = _explain(error)
            return self._failed(stage, 1, reason, message)
        return ExitCode.COMMITTED

    def _failed(self, stage: str, code: int, reason: str, message: str, artifact: str = "") -> int:
        self.pipe.emit(Failed(stage=stage, code=code, reason=reason, message=message, artifact=artifact))
        return code

    def _stage(
        self, order: Order, todo: OrderStage, store: ObjectStore, earlier: Mapping[str, Mapping[str, Artifact]]
    ) -> Manifest:
        inputs = {name: _digest(todo, name, earlier) for name in todo.inputs}
        name = fingerprint(todo.kind, todo.parameters, inputs)
        clock = Clock()
        artifacts = TimedArtifacts(store, self.cache, clock)
        standing = _standing(artifacts, name)
        if standing is not None:
            self.pipe.emit(Committed(stage=todo.id, manifest=standing, adopted=True))
            return standing
        self.pipe.emit(Started(stage=todo.id, fingerprint=name))
        with clock.loading():
            run_stage = stage_of(todo.kind)
        session = self._session_for(order.model)
        session.expect(inputs.get("model"))
        loaded = session.load_seconds
        with self._scratch_folder(name) as scratch:
            result = run_stage(
                StageRun(
                    id=todo.id,
                    round=todo.round,
                    parameters=todo.parameters,
                    inputs=inputs,
                    model_uri=order.model,
                    artifacts=artifacts,
                    scratch=scratch,
                    session=session,
                    progress=ProgressReporter(self.pipe, store, order.run, todo.id, name),
                )
            )
            outputs = {
                output: artifacts.put_tree(made.path)
                if made.path.is_dir()
                else artifacts.put_file(made.path, made.count)
                for output, made in result.outputs.items()
            }
        manifest, created = artifacts.commit(
            Manifest(
                fingerprint=name,
                kind=todo.kind,
                semantics=SEMANTICS[todo.kind],
                round=todo.round,
                parameters=todo.parameters,
                inputs=inputs,
                outputs=outputs,
                metrics=dict(result.metrics),
                warnings=result.warnings,
                timings=clock.timings(session.load_seconds - loaded),
                versions=versions(),
                attempt=todo.attempt,
                run=order.run,
            )
        )
        self.pipe.emit(Committed(stage=todo.id, manifest=manifest, adopted=not created))
        return manifest

    def _session_for(self, uri: str) -> ModelSession:
        if self._session is None or self._session.uri != uri:
            self._session = None  # the old model leaves memory before the new one comes
            self._session = ModelSession(
                uri, self.cache, on_load=lambda seconds: self.pipe.emit(ModelLoaded(seconds=round(seconds, 3)))
            )
        return self._session

    @contextmanager
    def _scratch_folder(self, name: str) -> Iterator[Path]:
        folder = self.cache / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        _remove_scratch_of_the_dead(folder)
        self._scratch = folder / f"{socket.gethostname()}-{os.getpid()}-{name[:8]}"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        try:
            yield self._scratch
        finally:
            self.remove_scratch()

    def remove_scratch(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


def stage_of(kind: Kind) -> Callable[[StageRun], Result]:
    """What does stages of that kind. Imported at need, because some of it takes seconds to load."""
    match kind:
        case Kind.PREPARE:
            from evolution_trainer import prepare

            return prepare.run
        case Kind.GENERATE:
            from evolution_trainer import generate

            return generate.run
        case Kind.SCORE:
            from evolution_trainer import score

            return score.run
        case Kind.TRAIN:
            from evolution_trainer import train

            return train.run
        case Kind.EVALUATE:
            from evolution_trainer import evaluate

            return evaluate.run
        case Kind.PUBLISH:
            from evolution_trainer import publish

            return publish.run


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


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


def _remove_scratch_of_the_dead(folder: Path) -> None:
    host = socket.gethostname()
    for scratch in folder.glob(f"{host}-*-*"):
        pid = scratch.name.removeprefix(f"{host}-").partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(scratch, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "OutOfMemory", f"not enough memory even for one row at a time: {error}"
    return "InternalError", f"{type(error).__name__}: {error} (a defect of the worker; its log has the traceback)"


def _first(error: ValidationError) -> str:
    details = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, details['loc'])) or 'the document'}: {details['msg']}"
