"""Following a run of a cluster until it ends: a live view in a terminal, lines of what changes elsewhere."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.live import Live

from evolution.cli.options import errors
from evolution.cli.standing import (
    condition_text,
    conditions_that_matter,
    headline,
    notes,
    outcome_line,
    round_text,
    stage_text,
    standing,
)
from evolution.cluster.errors import ClusterExit, Unreachable
from evolution.cluster.runs import ClusterRun, Runs

INTERRUPTED = 130
PAUSE_SECONDS = 2.0
"""Between attempts while the cluster does not answer."""
Show = Callable[[ClusterRun], None]


def watch(runs: Runs, name: str, console: Console, *, as_json: bool = False) -> int:
    """Show the run until it is complete (0) or failed (1); 130 if the user stops watching.

    Raises:
        ClusterError: there is no such run, it was deleted, or it may not be watched.
    """
    try:
        with _view(console, as_json=as_json) as show:
            for run in _changes(runs, name):
                show(run)
                if run.ended:
                    return 0 if run.status.state == "Complete" else ClusterExit.REFUSED
    except KeyboardInterrupt:
        errors.print(f"no longer watching; the run goes on. `evolve status {name} --watch` watches it again")
    return INTERRUPTED


def _changes(runs: Runs, name: str) -> Iterator[ClusterRun]:
    """The run after every change, for good: a server that ends a watch, or is away for a while, is asked again."""
    answered = False
    while True:
        try:
            with runs.watch(name) as changes:
                for run in changes:
                    answered = True
                    yield run
        except Unreachable as error:
            if not answered:
                raise
            errors.print(f"{error}; trying again", style="yellow", markup=False)
            time.sleep(PAUSE_SECONDS)


@contextmanager
def _view(console: Console, *, as_json: bool) -> Iterator[Show]:
    if as_json:
        yield lambda run: typer.echo(json.dumps(run.body.get("status", {})))
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda run: live.update(standing(run), refresh=True)
    else:
        yield _Lines(console)


class _Lines:
    """Every line once, when it first is true; percentages are left out."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[str] = set()
        self._state = ""

    def __call__(self, run: ClusterRun) -> None:
        status = run.status
        state = status.summary or status.state
        if state != self._state:
            self._state = state
            self._print(headline(run))
        for note in notes(run):
            self._once(f"  {note}")
        for current in status.current:
            self._once(f"  {stage_text(current.model_copy(update={'percent': 0, 'eta_seconds': None}))}")
        for record in status.rounds:
            if record.scores:
                self._once(f"  {round_text(record)}")
        for condition in conditions_that_matter(status):
            self._once(f"  {condition_text(condition)}")
        if run.ended:
            self._print(outcome_line(status))

    def _once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._print(line)

    def _print(self, line: str) -> None:
        if line:
            self._console.print(line, markup=False)
            sys.stdout.flush()
