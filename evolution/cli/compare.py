"""`evolve compare`: arms of a run, that is the run with some fields set otherwise, side by side."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evolution.api.errors import FieldError, InvalidRun
from evolution.api.runtime import EngineSettings
from evolution.cli.comparing import Comparing, run_name
from evolution.cli.options import (
    Endpoint,
    Engine,
    Json,
    RunFile,
    Store,
    console,
    engine_settings,
    errors,
    warn,
)
from evolution.cli.run import INTERRUPTED
from evolution.compare.arms import BUILT_IN, Arm, Member, built_in_arm, members, parse_arm
from evolution.compare.fairness import warnings
from evolution.compare.outcome import Comparison, Key, outcome
from evolution.compare.stages import LookUp, amount, unfolded
from evolution.compare.table import amount_line, as_json, cost_line, outcome_table, rounds_table
from evolution.decide import Plan
from evolution.local.places import StoredRun, local_id, open_run, with_local_revisions
from evolution.local.series import Series
from evolution.plan.graph import Graph
from evolution.plan.manifest import Manifest
from evolution.plan.worker import ExitCode
from evolution.report.table import format_seconds
from evolution.store.artifacts import ArtifactDamaged, Artifacts

Runs = Mapping[Key, StoredRun]


@dataclass(frozen=True)
class Ended:
    """A run that did not come to a good end."""

    why: str
    code: int


def compare(
    file: RunFile,
    arms: Annotated[
        str, typer.Option("--arms", metavar="NAME,NAME", help=f"Built-in arms: {', '.join(BUILT_IN)}.")
    ] = "",
    arm: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            metavar="NAME=FIELD=VALUE,FIELD=VALUE",
            help="An arm of your own, as wide=training.rank=64; the name alone is the run as the file has it.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="1,2,3", help="Run every arm with each of these seeds. Default: the file's seed.")
    ] = "",
    baseline: Annotated[
        str, typer.Option(metavar="NAME", help="Arm that the others are compared with. Default: the first.")
    ] = "",
    store: Store = None,
    engine: Engine = "Transformers",
    endpoint: Endpoint = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    as_json_: Json = False,
) -> None:
    """Run the same run with some fields set otherwise, and show which arm is better, and how sure that is.

    What arms have in common is done once. Interrupted or repeated, it goes on where it was.
    """
    told = errors if as_json_ else console
    settings = engine_settings(engine, endpoint)
    base = open_run(file, store)
    chosen = [built_in_arm(name.strip()) for name in arms.split(",") if name.strip()]
    chosen += [parse_arm(text) for text in arm or ()]
    planned = members(file, chosen, _seeds(seeds))
    reference = _baseline(baseline, chosen)
    runs = {(m.arm, m.seed): _stored(m, base.artifacts) for m in planned}
    graphs = _graphs(runs)
    for warning in warnings(planned):
        warn(warning)
    _say_what_runs(file, chosen, graphs, told)
    if dry_run:
        return
    unfinished = _run_all(runs, graphs, settings, told)
    result = _result(runs, reference, base)
    if as_json_:
        failures = {run_name(key): ended.why for key, ended in unfinished.items()}
        typer.echo(json.dumps(as_json(result, failures), indent=2))
    else:
        _show(result)
    for key, ended in unfinished.items():
        errors.print(f"{run_name(key)}: {ended.why}", style="red", markup=False)
    if unfinished:
        sys.exit(next(iter(unfinished.values())).code)


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",") if seed.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"--seeds {text}: give whole numbers with commas between, as 1,2,3") from error


def _baseline(name: str, arms: list[Arm]) -> str:
    names = [arm.name for arm in arms]
    chosen = name.lower() or names[0]
    if chosen not in names:
        raise InvalidRun("baseline", [FieldError("", f"{name} is not among the arms: {', '.join(names)}")])
    return chosen


def _stored(member: Member, artifacts: Artifacts) -> StoredRun:
    return StoredRun(with_local_revisions(member.run), artifacts, local_id(member.run))


def _graphs(runs: Runs) -> dict[Key, Graph]:
    known: dict[str, Manifest | None] = {}
    return {key: unfolded(run.run.spec, known, _look_up(run.artifacts)) for key, run in runs.items()}


def _look_up(artifacts: Artifacts) -> LookUp:
    def look_up(fingerprint: str) -> Manifest | None:
        try:
            return artifacts.manifest(fingerprint)
        except ArtifactDamaged:
            return None  # its stage is done again

    return look_up


def _say_what_runs(file: Path, arms: list[Arm], graphs: Mapping[Key, Graph], told: Console) -> None:
    width = max(len(arm.name) for arm in arms)
    for arm in arms:
        settings = {**arm.changes, **{f"{path} if not set": value for path, value in arm.defaults.items()}}
        says = ", ".join(f"{path}: {value}" for path, value in settings.items())
        told.print(f"{arm.name.ljust(width)}  {says or f'as in {file}'}", markup=False)
    told.print(amount_line(amount(graphs.values()), len(arms), len(graphs) // len(arms)), markup=False)


def _run_all(runs: Runs, graphs: dict[Key, Graph], engine: EngineSettings, told: Console) -> dict[Key, Ended]:
    """Do every run; those that did not complete, and why."""
    unfinished: dict[Key, Ended] = {}
    audience = Comparing(graphs, told)
    audience.start()
    try:
        with Series(engine) as series:
            for key, run in runs.items():
                audience.now = key
                started = time.monotonic()
                if why := series.hopeless(graphs[key]):
                    unfinished[key] = Ended(f"not tried: {why}", ExitCode.BAD_INPUT)
                else:
                    plan = series.run(run, audience)
                    if plan.status.state != "Complete":
                        unfinished[key] = _ended(plan)
                audience.ended(unfinished[key].why if key in unfinished else _score(plan, run, started))
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here")
        sys.exit(INTERRUPTED)
    finally:
        audience.stop()
    return unfinished


def _ended(plan: Plan) -> Ended:
    conditions = [plan.status.condition("Failed"), plan.status.condition("Suspended")]
    why = next((f"{c.type.lower()}: {c.message}" for c in conditions if c and c.status == "True"), plan.status.state)
    return Ended(why, plan.failure_code or ExitCode.LIMIT)


def _score(plan: Plan, run: StoredRun, started: float) -> str:
    metric = run.run.spec.evaluation.primary_metric
    scores = plan.status.rounds[-1].scores if plan.status.rounds else {}
    return f"{metric} {scores.get(metric, '?')}, {format_seconds(time.monotonic() - started)}"


def _result(runs: Runs, baseline: str, base: StoredRun) -> Comparison:
    graphs = _graphs(runs)
    try:
        return outcome(graphs, base.artifacts, base.run.spec.evaluation.primary_metric, baseline)
    except ArtifactDamaged as damage:
        for graph in graphs.values():
            for stage in graph.stages:
                if stage.manifest and any(a.digest == damage.digest for a in stage.manifest.outputs.values()):
                    base.artifacts.discard(stage.manifest, damaged=[damage.digest])
        errors.print(f"{damage}; the same command does its stage again", style="red", markup=False)
        sys.exit(ExitCode.BAD_INPUT)


def _show(result: Comparison) -> None:
    if result.last_round is None:
        console.print("nothing is evaluated yet")
        return
    console.print(rounds_table(result))
    console.print(outcome_table(result, result.last_round))
    console.print(cost_line(result), markup=False)
