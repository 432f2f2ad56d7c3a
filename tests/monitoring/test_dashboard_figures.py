"""The panels' questions, asked of Prometheus over a day of two runs, get the answers that one computes by hand."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring.dashboard_files import QUERIES

from evolution.metrics.families import FAMILIES, Family, label_values

pytestmark = pytest.mark.prometheus

# Two runs, each of them with eight GPUs for a day: of each minute, 360 GPU-seconds productive and 120 wasted, that is
# 60 and 20 for each of the six kinds of stages. From 0.4 to 0.6; one round in four was promoted; 2.50 for a GPU-hour.
RUNS = {"team-a": "manuals", "team-b": "tickets"}
DAY = 24 * 60
GROWTH = {"productive": 60, "wasted": 20, "promoted": 1}
SCORES = {"baseline": 0.4, "last": 0.5, "best": 0.6}
VALUES = {
    "evolution_run_allocated_gpu_seconds": f"0+480x{DAY}",
    "evolution_run_budget_gpu_seconds": f"921600x{DAY}",
    "evolution_gpu_hourly_price": f"2.5x{DAY}",
    "evolution_operator_active": f"1x{DAY}",
}
OPEN_LABELS = {
    "base_model": "models/base",
    "gpu_class": "h100",
    "queue": "gpus",
    "eval_digest": "0123456789ab",
    "currency": "EUR",
    "reason": "Duplicate",
    "verb": "GET",
    "resource": "jobs",
    "code": "200",
    "version": "1.0.0",
}


def value(family: Family, labels: dict[str, str]) -> str:
    if family.name == "evolution_run_phase":
        return f"{int(labels['phase'] == 'Running')}x{DAY}"
    if family.name == "evolution_run_score_ratio":
        return f"{SCORES[labels['kind']]}x{DAY}"
    if family.name == "evolution_stage_gpu_seconds_total":
        return f"0+{GROWTH.get(labels['class'], 0)}x{DAY}"
    if family.name == "evolution_run_rounds_total":
        return f"0+{GROWTH.get(labels['outcome'], 3)}x{DAY}"
    return VALUES.get(family.name, f"0+60x{DAY}" if family.type != "gauge" else f"1x{DAY}")


def series(name: str, labels: dict[str, str], values: str) -> dict[str, str]:
    chosen = ", ".join(f'{label}="{text}"' for label, text in labels.items())
    return {"series": f"{name}{{{chosen}}}", "values": values}


def served() -> Iterator[dict[str, str]]:
    """All metrics, with every value that their labels can have."""
    for family in FAMILIES:
        free = [label for label in family.labels if label not in ("namespace", "run")]
        choices = [label_values(family, label) or (OPEN_LABELS[label],) for label in free]
        for namespace, run in RUNS.items() if "namespace" in family.labels else [("", "")]:
            whose = {"namespace": namespace} if namespace else {}
            if "run" in family.labels:
                whose["run"] = run
            for chosen in itertools.product(*choices):
                labels = whose | dict(zip(free, chosen, strict=True))
                for name in family.series:
                    for bound in ("10", "+Inf") if name.endswith("_bucket") else ("",):
                        yield series(name, labels | ({"le": bound} if bound else {}), value(family, labels))


def of_others() -> Iterator[dict[str, str]]:
    """What a rule records from kube-state-metrics, and what the DCGM exporter tells."""
    for namespace, run in RUNS.items():
        yield series("namespace:kube_evolution_gpus:sum", {"namespace": namespace}, f"8x{DAY}")
        pod = {"namespace": namespace, "pod": f"{run}-r1-train-x"}
        yield series("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", pod, f"0.4x{DAY}")


def told(promtool: Path, folder: Path, case: dict[str, Any], rules: list[dict[str, str]]) -> None:
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    tests = [{"interval": "1m", **case}]
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "24h", "tests": tests}
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    command = [promtool, "test", "rules", str(folder / "test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def at_the_end(expression: str, *found: tuple[str, float]) -> dict[str, Any]:
    samples = [{"labels": labels, "value": value} for labels, value in found]
    return {"expr": expression, "eval_time": "24h", "exp_samples": samples}


def shown(name: str, *found: tuple[str, float], letter: str = "A") -> dict[str, Any]:
    (query,) = [query for query in QUERIES if str(query) == f"{name} {letter}"]
    return at_the_end(f"round({query.asked()}, 1e-6)", *((labels, round(value, 6)) for labels, value in found))


def test_every_panel_shows_something_where_there_is_something_to_show(promtool: Path, tmp_path: Path) -> None:
    """Every question is a recording rule, so that promtool tells of each that cannot be evaluated."""
    rules = [{"record": f"panel_{i}", "expr": query.asked()} for i, query in enumerate(QUERIES)]
    full = [at_the_end(f"absent(panel_{i})") for i, _ in enumerate(QUERIES)]
    told(promtool, tmp_path, {"input_series": [*served(), *of_others()], "promql_expr_test": full}, rules)


def test_panels_show_figures_that_were_computed_by_hand(promtool: Path, tmp_path: Path) -> None:
    runs = [f'{{namespace="{namespace}", run="{run}"}}' for namespace, run in RUNS.items()]
    euros = [run.replace("}", ', currency="EUR"}') for run in runs]
    expected = [
        shown("fleet: Goodput", ("{}", 0.75)),
        shown("fleet: GPU-hours settled", ("{}", 2 * 192)),
        shown("fleet: GPU-hours wasted", ("{}", 2 * 48)),
        shown("fleet: Cost", ('{currency="EUR"}', 2 * 480)),
        shown("fleet: Rounds promoted", ("{}", 0.25)),
        shown("fleet: Budget used", *((run, 0.75) for run in runs)),
        shown("fleet: Score gain per GPU-hour", *((run, 20 / 192) for run in runs)),
        shown("fleet: Cost of a point", *((run, 24) for run in euros)),
        shown("fleet: Cost by namespace", *((f'{{namespace="{name}", currency="EUR"}}', 480) for name in RUNS)),
        shown("fleet: GPUs held: ledger beside Kubernetes", ("{}", 16)),
        shown("fleet: GPUs held: ledger beside Kubernetes", ("{}", 16), letter="B"),
        shown("fleet: GPU-hours by Kubernetes", ("{}", 2 * 192)),
        # From the first of 1440 samples to the last one it grew 1439 times.
        shown("fleet: Ledger off by", ("{}", 1 / 1440)),
        shown("run: Score gain", (runs[0], 20)),
        shown("run: Gain per GPU-hour", (runs[0], 20 / 192)),
        shown("run: Cost", (euros[0], 480)),
        shown("run: Budget used", (runs[0], 0.75)),
    ]
    told(promtool, tmp_path, {"input_series": [*served(), *of_others()], "promql_expr_test": expected}, [])


def test_a_share_of_nothing_is_empty_rather_than_not_a_number(promtool: Path, tmp_path: Path) -> None:
    new = {"namespace": "team-a", "run": "manuals"}
    nothing = [
        series("evolution_stage_gpu_seconds_total", new | {"stage": "Train", "class": "productive"}, f"0x{DAY}"),
        series("evolution_run_rounds_total", new | {"outcome": "promoted"}, f"0x{DAY}"),
        series("evolution_run_allocated_gpu_seconds", new, f"0x{DAY}"),
        series("evolution_run_score_ratio", new | {"kind": "baseline"}, f"0.4x{DAY}"),
        series("evolution_run_score_ratio", new | {"kind": "best"}, f"0.4x{DAY}"),
    ]
    panels = ("fleet: Goodput", "fleet: Rounds promoted", "fleet: Score gain per GPU-hour", "run: Gain per GPU-hour")
    told(promtool, tmp_path, {"input_series": nothing, "promql_expr_test": [shown(name) for name in panels]}, [])


def test_a_run_that_is_deleted_does_not_lower_what_was_settled(promtool: Path, tmp_path: Path) -> None:
    seconds = {"namespace": "team-a", "stage": "Train", "class": "productive"}
    name, half = "evolution_stage_gpu_seconds_total", DAY // 2
    stays = series(name, seconds | {"run": "manuals"}, f"0+60x{DAY}")
    goes = series(name, seconds | {"run": "tickets"}, f"0+60x{half} stale")
    hours = next(query for query in QUERIES if str(query) == "fleet: GPU-hours settled A").asked()
    case = {"input_series": [stays, goes], "promql_expr_test": [at_the_end(f"round({hours})", ("{}", 24 + 12))]}
    told(promtool, tmp_path, case, [])
