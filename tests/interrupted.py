"""Workers that are ended by a signal at random moments amid a stage and started again, until the stage is done.

For any stage: `Interruptions(shop, order, phase).run(dice, signals, seconds)` gives the manifest of the order's last
stage; `redone` and `steps_redone` then tell how much work each interruption cost. `tests/trainer/test_interrupted.py`
uses it, also by hand for as many moments as one likes.
"""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker_process import Workshop

from evolution.plan.manifest import Manifest
from evolution.plan.order import Order
from evolution.plan.worker import Committed, ExitCode, Progress, parse_event

PATIENCE = 60.0
"""Seconds within which a worker that got a signal must have ended."""


@dataclass
class Life:
    """One worker, from its start to its end."""

    reached: list[tuple[float, int]] = field(default_factory=list)
    """When it told how much of the phase that is interrupted was done."""
    manifests: dict[str, Manifest] = field(default_factory=dict)
    code: int = 0
    errors: str = ""


@dataclass
class Interruptions:
    """An order whose last stage is interrupted while `phase` (a stage's own word, such as "steps") goes on."""

    shop: Workshop
    order: Order
    phase: str
    lives: list[Life] = field(default_factory=list)

    def undisturbed(self) -> Life:
        """A worker that is left alone."""
        return self._life(None, None)

    def run(self, dice: random.Random, signals: Sequence[signal.Signals], seconds: float) -> Manifest:
        """Send one signal after another, each to a worker that has been in the phase for a random part of `seconds`;
        then let the last worker end.
        """
        for chosen in signals:
            life = self._life(chosen, dice.uniform(0.0, seconds))
            self.lives.append(life)
            if life.code == 0:
                break  # it was faster than the signal
            expected = ExitCode.PREEMPTED if chosen is signal.SIGTERM else -signal.SIGKILL
            assert life.code == expected, life.errors
            assert not life.manifests.keys() & {self.order.stages[-1].id}, "committed, and yet not done"
        else:
            self.lives.append(self._life(None, None))
        assert self.lives[-1].code == 0, self.lives[-1].errors
        return self.lives[-1].manifests[self.order.stages[-1].id]

    @property
    def redone(self) -> list[float]:
        """Of every interruption, the seconds of work that were done again: from when the worker told of as much as its
        successor began with, to the last that it told of.
        """
        lost = []
        for life, successor in zip(self.lives, self.lives[1:], strict=False):
            if life.reached and successor.reached:
                began = successor.reached[0][1]
                had = [at for at, done in life.reached if done <= began] or [life.reached[0][0]]
                lost.append(life.reached[-1][0] - had[-1])
        return lost

    @property
    def steps_redone(self) -> list[int]:
        """The same in what the phase counts."""
        return [
            max(0, life.reached[-1][1] - successor.reached[0][1])
            for life, successor in zip(self.lives, self.lives[1:], strict=False)
            if life.reached and successor.reached
        ]

    def _life(self, chosen: signal.Signals | None, after: float | None) -> Life:
        process = self.shop.start("-")
        life = Life()
        errors: list[bytes] = []
        assert process.stdin
        assert process.stdout
        assert process.stderr
        reading = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
        reading.start()
        process.stdin.write(self.order.to_json())
        process.stdin.close()
        timer: threading.Timer | None = None
        for line in process.stdout:
            event = parse_event(line)
            if isinstance(event, Committed):
                life.manifests[event.stage] = event.manifest
            elif isinstance(event, Progress) and event.phase == self.phase:
                life.reached.append((time.monotonic(), event.done))
                if chosen is not None and timer is None:
                    timer = threading.Timer(after or 0.0, self._send, (process, chosen))
                    timer.start()
        try:
            life.code = process.wait(PATIENCE)
        finally:
            process.kill()
            if timer:
                timer.cancel()
                timer.join()
            reading.join()
            process.stdout.close()
            process.stderr.close()
        life.errors = b"".join(errors).decode()
        return life

    @staticmethod
    def _send(process: "subprocess.Popen[bytes]", chosen: signal.Signals) -> None:
        if process.poll() is None:
            os.kill(process.pid, chosen)
