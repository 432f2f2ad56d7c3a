"""`evolve chat`: ask the base model and any round's adapter the same question, side by side."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer
from rich.table import Table

from evolution.cli.options import Context, Json, Kubeconfig, Namespace, Store, Target, console, warn
from evolution.cli.target import open_target
from evolution.cluster.kubectl import Kubectl
from evolution.local.conversation import Conversation, ConversationFailed, converse
from evolution.local.observe import observe
from evolution.plan.graph import Graph
from evolution.plan.worker import ExitCode


def chat(
    target: Target,
    question: Annotated[
        str | None, typer.Argument(help="Ask this and leave; without it, questions are read one by one.")
    ] = None,
    rounds: Annotated[list[int] | None, typer.Option("--round", help="Rounds to ask; default: the best.")] = None,
    store: Store = None,
    as_json: Json = False,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Ask the base model and the adapters of chosen rounds the same questions, side by side."""
    local = open_target(target, store, Kubectl(context, namespace, kubeconfig))
    graph = observe(local, warn).graph
    assert graph is not None
    prepared = graph.stage("prepare-model")
    if prepared is None or prepared.manifest is None:
        raise typer.BadParameter("the run has not begun; `evolve run` first")
    adapters = _adapters(graph, rounds)
    try:
        with converse(local, prepared.manifest.outputs["model"].digest, adapters) as conversation:
            for asked in [question] if question else _typed():
                _show(conversation, asked, as_json=as_json)
    except ConversationFailed as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(ExitCode.BAD_INPUT)


def _adapters(graph: Graph, rounds: list[int] | None) -> Mapping[str, str | None]:
    """The base and each chosen round, by name."""
    trained = {
        s.round: s.manifest.outputs["adapter"].digest
        for s in graph.stages
        if s.manifest and "adapter" in s.manifest.outputs
    }
    start = graph.stage("prepare-adapter")
    chosen = rounds or ([graph.verdict.best] if graph.verdict.best in trained else sorted(trained)[-1:])
    missing = [round_ for round_ in chosen if round_ not in trained]
    if missing:
        raise typer.BadParameter(
            f"round {missing[0]} has no adapter; rounds that have: {', '.join(map(str, sorted(trained))) or 'none'}"
        )
    base = start.manifest.outputs["adapter"].digest if start and start.manifest else None
    return {"base": base} | {f"round {round_}": trained[round_] for round_ in chosen}


def _typed() -> Iterator[str]:
    """Questions as they are typed, until end of input or an empty line."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("? " if interactive else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def _show(conversation: Conversation, question: str, *, as_json: bool) -> None:
    answers = conversation.ask(question)
    if as_json:
        typer.echo(json.dumps({"question": question, "answers": answers}, ensure_ascii=False))
        return
    table = Table(title=question, show_header=False, title_justify="left", title_style="bold")
    for name, answer in answers.items():
        table.add_row(name, answer)
    console.print(table)
