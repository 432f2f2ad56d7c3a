"""The worker: does the stages of an order one after the other, and commits each."""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

from pydantic import ValidationError

from evolution.plan.order import Order
from evolution.plan.worker import ExitCode, Failed, ModelLoaded, OrderDone, Ready
from evolution.redaction import RedactedStream, redacted
from evolution.store.artifacts import ArtifactDamaged
from evolution.store.base import StoreRefused, StoreUnavailable
from evolution.store.cache import cache_folder
from evolution.store.open import open_store
from evolution.store.sources import SourceUnusable
from evolution_trainer import pod
from evolution_trainer.accounts import Account
from evolution_trainer.channel import EventPipe, OrderPipe
from evolution_trainer.execution import Execution
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.preemption import Preempted, raise_on_signals
from evolution_trainer.scratch import Scratch
from evolution_trainer.timing import Clock, process_age

DISK_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "unexpected pos")
"""Told by Python and safetensors, and by torch, whose writer of files says nothing better."""


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
    sys.stderr = cast("TextIO", RedactedStream(sys.stderr))

    # Read by OpenMP and cuBLAS when torch is imported: threads that wait must not burn the cores of others, and
    # cuBLAS needs a fixed workspace to be deterministic.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    age = 0.0 if options.resident else process_age()  # its one order is what it was started for
    in_pod = not options.resident and options.order is None
    worker = Worker(EventPipe(), options.cache, in_pod=in_pod, account=Account(Clock(loading=age)))
    raise_on_signals(worker.give_up)
    try:
        with closing(worker):
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
    account: Account = field(default_factory=lambda: Account(Clock()))
    """Of the order that is being done."""
    _session: ModelSession | None = None
    _execution: Execution | None = None
    _told: Failed | None = None

    def __post_init__(self) -> None:
        self.scratch = Scratch(self.cache)

    def do_all(self) -> int:
        """Do the orders that come line by line on standard input; returns the exit code."""
        orders = OrderPipe(self.scratch.remove)
        self.pipe.emit(Ready())
        for line in orders:
            self.account = Account(Clock())
            if code := self.do(line):
                return code
            orders.finished()
            self.pipe.emit(OrderDone(tally=self.account.tally()))
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
            done = OrderDone(tally=self.account.tally())
            self.pipe.emit(done)
            pod.leave_message(done)
        return code

    def close(self) -> None:
        """End what else has been started to serve the model."""
        if self._session is not None:
            self._session.vacate()

    def give_up(
        self, code: int = ExitCode.PREEMPTED, reason: str = "Preempted", message: str = "stopped by a signal"
    ) -> None:
        """End the process from whichever thread: after a signal, or for another reason that the main thread misses."""
        code = self._failed(code, reason, message)  # before the main thread misses its files, and calls that a failure
        self.scratch.remove()
        os._exit(code)

    def do(self, order: bytes) -> int:
        """Do one order given as JSON; returns the exit code, and says on the pipe what went wrong."""
        self._execution = None
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
            sys.stderr.write(traceback.format_exc())
            reason, message = _explain(error, self.cache)
            return self._failed(1, reason, message)
        return ExitCode.COMMITTED

    def _failed(self, code: int, reason: str, message: str, artifact: str = "") -> int:
        """Tell what ends this process, once; the exit code of what was told first."""
        if self._told is not None:
            return self._told.code
        stage = self._execution.stage if self._execution else ""
        said, tally = redacted(message), self.account.tally()
        self._told = failed = Failed(
            stage=stage, code=code, reason=reason, message=said, artifact=artifact, tally=tally
        )
        self.pipe.emit(failed)
        pod.leave_message(failed)
        return code

    def _do(self, order: Order) -> None:
        store = open_store(order.store)
        if self.in_pod:
            with self.account.clock.waiting():
                pod.wait_for(store)
        session = self._session_for(order.model)
        self._execution = Execution(
            order, store, session, self.pipe, self.cache, self.scratch, self.in_pod, self.account
        )
        self._execution.do()

    def _session_for(self, uri: str) -> ModelSession:
        if self._session is None or self._session.uri != uri:
            self.close()
            self._session = None  # the old model leaves memory before the new one comes
            self._session = ModelSession(
                uri, self.cache, on_load=lambda seconds: self.pipe.emit(ModelLoaded(seconds=round(seconds, 3)))
            )
        return self._session


def _order(file: str | None) -> bytes:
    if file is None:
        if pod.ORDER not in os.environ:
            raise OSError(f"there is no {pod.ORDER} in the environment; set it, or name a file with the order")
        return os.environb[pod.ORDER.encode()]
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


def _explain(error: Exception, cache: Path) -> tuple[str, str]:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "OutOfMemory", f"not enough memory even for one row at a time: {error}"
    if any(said in str(error) for said in DISK_FULL):
        kept = "downloads, scratch files and each checkpoint of a training until it is in the store"
        return "DiskFull", f"no room is left in {cache}, the folder for {kept}: make more room there ({error})"
    return "InternalError", f"{type(error).__name__}: {error} (a defect of the worker; its log has the traceback)"


def _first(error: ValidationError) -> str:
    details = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, details['loc'])) or 'the document'}: {details['msg']}"
