"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="File with an EvolutionRun.", show_default=False)]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="EVOLUTION_STORE",
        help="Where artifacts live: a folder or s3://bucket/prefix. Default: .evolution beside the run file.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    errors.print(f"[yellow]warning:[/] {escape(message)}")
