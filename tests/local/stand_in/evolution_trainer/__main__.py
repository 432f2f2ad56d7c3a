"""A resident worker of two GPUs that invents what it commits; the product starts it in place of the real one.

At the stage `STAND_IN_STOPS_AT` it stands still until the file `STAND_IN_GOES_ON` exists.
"""

import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from simulated import rising
from simulated_worker import invented_manifest

from evolution.plan.manifest import Timings
from evolution.plan.order import Order, OrderStage
from evolution.plan.stage import fingerprint
from evolution.plan.tally import Spending, Tally, spent_on_committed
from evolution.plan.worker import Committed, Event, ExitCode, Failed, OrderDone, Progress, Ready
from evolution.store import keys
from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store

SECONDS = 0.01
"""Of work on each stage."""
SAVED = Spending(saved=30, wasted=10)
SAVED_LATER = Spending(saved=50, wasted=0)
"""What a worker that stands still has spent, as it told before and as it tells when it is stopped."""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say(event: Event) -> None:
    sys.stdout.buffer.write(event.to_json() + b"\n")
    sys.stdout.flush()


def stand_still(order: Order, stage: OrderStage, name: str, tally: Tally) -> None:
    def stopped(_signal: int, _frame: FrameType | None) -> None:
        last = tally.adding(stage.kind, SAVED_LATER, name)
        say(Failed(stage=stage.id, code=ExitCode.PREEMPTED, reason="Preempted", message="stopped", tally=last))
        os._exit(ExitCode.PREEMPTED)

    signal.signal(signal.SIGTERM, stopped)
    time.sleep(0.06)
    progress = Progress(
        stage=stage.id,
        fingerprint=name,
        phase="steps",
        done=1,
        total=2,
        updated_at=now(),
        tally=tally.adding(stage.kind, SAVED, name),
    )
    open_store(order.store).write(keys.progress(order.run, name), progress.to_json())
    say(progress)
    while not Path(os.environ["STAND_IN_GOES_ON"]).exists():
        time.sleep(0.01)


def do(order: Order) -> None:
    tally = Tally(worker=os.environ["EVOLUTION_WORKER"], started_at=now(), gpus=2)
    [stage] = order.stages
    inputs = {input_: source.digest or "" for input_, source in stage.inputs.items()}
    name = fingerprint(stage.kind, stage.parameters, inputs)
    if stage.id == os.environ.get("STAND_IN_STOPS_AT"):
        stand_still(order, stage, name, tally)
    time.sleep(SECONDS)
    invented = invented_manifest(stage, inputs, rising, order.run)
    timings = Timings(total=SECONDS, work=SECONDS, gpus=2)
    store = open_store(order.store)
    artifacts = Artifacts(store, Path(os.environ["EVOLUTION_CACHE"]))
    manifest, own = artifacts.commit(invented.model_copy(update={"timings": timings}))
    say(Committed(stage=stage.id, manifest=manifest, adopted=not own))
    say(OrderDone(tally=tally.adding(stage.kind, spent_on_committed(manifest))))


say(Ready())
for line in sys.stdin.buffer:
    do(Order.model_validate_json(line))
    say(Ready())
