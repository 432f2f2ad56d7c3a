"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from evolution.api.runtime import EngineName, EngineSettings

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
Engine = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        case_sensitive=False,
        help="What writes text: transformers in the worker, vLLM (needs a GPU), or a server that has the model.",
    ),
]
Endpoint = Annotated[
    str,
    typer.Option(
        "--endpoint",
        help="Base URL of the server's OpenAI-compatible API, as http://host:8000/v1; for --engine OpenAI. Its key, if "
        "it wants one, comes from OPENAI_API_KEY.",
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


def engine_settings(name: EngineName, endpoint: str) -> EngineSettings:
    """What `--engine` and `--endpoint` say."""
    try:
        return EngineSettings(name=name, endpoint=endpoint)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ").removeprefix("endpoint: ")
        raise typer.BadParameter(said, param_hint="--endpoint") from error


def warn(message: str) -> None:
    errors.print(f"[yellow]warning:[/] {escape(message)}")
