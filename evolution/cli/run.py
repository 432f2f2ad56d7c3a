"""`evolve run`: work on a run until it is complete."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from evolution.api.errors import FieldError, InvalidRun
from evolution.api.runtime import EngineSettings
from evolution.cli.options import Endpoint, Engine, RunFile, Store, console, engine_settings, errors
from evolution.cli.terminal import Terminal
from evolution.decide import Plan
from evolution.local.places import StoredRun, open_run
from evolution.local.runner import Audience, Runner
from evolution.plan.worker import ExitCode
from evolution.report.table import format_seconds

INTERRUPTED = 130


def run(
    file: RunFile,
    store: Store = None,
    engine: Engine = "Transformers",
    endpoint: Endpoint = "",
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=1,
            max=65535,
            help="Serve the run's metrics for Prometheus at http://127.0.0.1:PORT/metrics while it goes on.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the rounds on this machine. Interrupted or repeated, it goes on where it was; what is finished is reused."""
    work(open_run(file, store), engine_settings(engine, endpoint), metrics_port)


def work(local: StoredRun, engine: EngineSettings, metrics_port: int | None = None) -> None:
    """Run `local` to its end and leave with the exit code that says how it ended."""
    started = time.monotonic()
    terminal = Terminal(local, console)
    with _metrics(local, terminal, metrics_port) as audience, terminal:
        try:
            plan = Runner(local, audience, engine=engine).run()
        except KeyboardInterrupt:
            errors.print("interrupted; the same command goes on from here")
            sys.exit(INTERRUPTED)
    code = _say_how_it_ended(plan, time.monotonic() - started)
    if code:
        sys.exit(code)


@contextmanager
def _metrics(local: StoredRun, audience: Audience, port: int | None) -> Iterator[Audience]:
    """The audience of a run whose metrics are served at `port`, if there is one."""
    if port is None:
        yield audience
        return
    try:
        from evolution.local.metrics_server import MetricsServer, PortUnusable
    except ModuleNotFoundError as error:
        raise _unusable(f"the package {error.name} is missing: pip install 'evolution[operator]'") from error
    try:
        server = MetricsServer(local, audience, port)
    except PortUnusable as error:
        raise _unusable(str(error)) from error
    with server:
        yield server


def _unusable(why: str) -> InvalidRun:
    return InvalidRun("--metrics-port", [FieldError("", why)])


def _say_how_it_ended(plan: Plan, seconds: float) -> int:
    status = plan.status
    if status.state == "Complete":
        complete = status.condition("Complete")
        console.print(f"[bold green]complete[/] in {format_seconds(seconds)}: {complete.message if complete else ''}")
        if status.best and status.best.adapter_uri:
            console.print(f"published to {status.best.adapter_uri}")
        return 0
    if status.state == "Failed":
        failed = status.condition("Failed")
        errors.print("failed: ", style="bold red", end="")
        errors.print(failed.message if failed else "", markup=False)
        return plan.failure_code or 1
    suspended = status.condition("Suspended")
    errors.print(f"suspended: {suspended.message if suspended else ''}", markup=False)
    exceeded = status.condition("BudgetExceeded")
    return ExitCode.LIMIT if exceeded and exceeded.status == "True" else 0
