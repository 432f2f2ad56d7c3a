"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="File with an EvolutionRun.", show_default=False)]
Target = Annotated[
    str,
    typer.Argument(metavar="RUN.yaml|NAME", help="A run file, or the name of a run on a cluster.", show_default=False),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a run on a cluster.", show_default=False)]
Store = Annotated[
    str | None,
    typer.Option(
        envvar="EVOLUTION_STORE",
        help="Where artifacts live: a folder or s3://bucket/prefix. Default: .evolution beside the run file; "
        "of a run on a cluster, the store that its status names.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

CLUSTER = "Cluster"
Context = Annotated[
    str, typer.Option("--context", help="Context of the kubeconfig.", show_default=False, rich_help_panel=CLUSTER)
]
Namespace = Annotated[
    str,
    typer.Option("--namespace", "-n", help="Namespace of the run.", show_default=False, rich_help_panel=CLUSTER),
]
Kubeconfig = Annotated[
    str, typer.Option("--kubeconfig", help="Kubeconfig file.", show_default=False, rich_help_panel=CLUSTER)
]

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    errors.print(f"[yellow]warning:[/] {escape(message)}")
