"""The `evolve` program: commands, and how their errors reach a person."""

import sys

import typer
from rich.console import Console

from evolution.api.errors import InvalidRun
from evolution.cli import artifacts, chat, cluster, compare, inspect, logs, maintain, run
from evolution.cluster.errors import ClusterError
from evolution.plan.worker import ExitCode
from evolution.redaction import redacted
from evolution.store.artifacts import ArtifactDamaged
from evolution.store.base import StoreError
from evolution.store.sources import SourceUnusable

app = typer.Typer(
    name="evolve",
    help="A language model trains itself on its owner's documents, round after round.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    run.run,
    compare.compare,
    inspect.plan,
    inspect.status,
    inspect.report,
    inspect.validate,
    chat.chat,
    artifacts.pull,
    maintain.retry,
    maintain.gc,
    cluster.submit,
    logs.logs,
    cluster.suspend,
    cluster.resume,
    cluster.cancel,
):
    app.command()(command)


def main() -> None:
    """Entry point. A mistake of the user's or the environment's is a message and an exit code, never a traceback."""
    try:
        app()
    except InvalidRun as error:
        _leave(str(error), ExitCode.BAD_SPEC)
    except ClusterError as error:
        _leave(str(error), error.code)
    except SourceUnusable as error:
        _leave(str(error), ExitCode.BAD_INPUT)
    except ArtifactDamaged as error:
        _leave(f"{error}; `evolve retry` does its stage again", ExitCode.BAD_INPUT)
    except StoreError as error:
        _leave(str(error), ExitCode.STORE_UNAVAILABLE)


def _leave(message: str, code: int) -> None:
    Console(stderr=True).print(redacted(message), style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(code)
