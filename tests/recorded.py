"""A run as its manifests and blobs stand in a store: every stage "runs" by writing plausible rows of the real formats.

For what reads a finished run (the report, `evolve pull`) and does not care whether a model computed it.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from simulated import make_run

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.decide import decide
from evolution.observation import Failure, Observation
from evolution.plan.graph import Graph, Stage, unfold
from evolution.plan.manifest import Artifact, Manifest, Timings
from evolution.plan.stage import SEMANTICS, Kind, canonical_json, sha256
from evolution.store import keys
from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore

Row = Mapping[str, Any]
STARTED = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
STEPS = 12
"""Training steps per round."""


def rising(round_: int) -> float:
    """Share of the items that the model of a round answers right."""
    return min(0.9, 0.22 * round_)


@dataclass(frozen=True)
class Recorded:
    """A recorded run, and what was written for each of its stages."""

    run: EvolutionRun
    graph: Graph
    artifacts: Artifacts
    status: EvolutionRunStatus
    rows: Mapping[str, Mapping[str, Sequence[Row]]]
    """Rows by stage id and output."""

    def blob(self, stage: str, output: str) -> Path:
        """File of an output in the store's folder, to damage it."""
        found = self.graph.stage(stage)
        assert found is not None
        assert found.manifest is not None
        store = self.artifacts.store
        assert isinstance(store, FolderStore)
        return store.path(keys.blob(found.manifest.outputs[output].digest))


def recorded_run(
    folder: Path,
    spec: Mapping[str, Any] | None = None,
    *,
    name: str = "demo",
    documents: Sequence[str] | None = None,
    items: int = 20,
    stages: int | None = None,
    accuracy: Callable[[int], float] = rising,
    failure: Failure | None = None,
) -> Recorded:
    """A run in a `FolderStore` below `folder`, done to its end or until `stages` stages are done.

    `accuracy` gives the share of right answers after each round, 0 for the baseline. `failure` is that of the first
    stage which is not done.
    """
    run = make_run(spec, name=name)
    artifacts = Artifacts(FolderStore(folder / "store"), folder / "cache")
    recorder = _Recorder(artifacts, folder, documents or machines(12), items, accuracy)
    known: dict[str, Manifest | None] = {}
    done = 0
    while True:
        graph = unfold(run.spec, known)
        if graph.unknown:
            known |= dict.fromkeys(graph.unknown, None)
            continue
        ready = [stage for stage in graph.stages if stage.ready]
        if not ready or done == stages:
            break
        for stage in ready if stages is None else ready[:1]:
            assert stage.fingerprint is not None
            known[stage.fingerprint], _ = artifacts.commit(recorder.finish(stage))
            done += 1
    failures = {ready[0].fingerprint: failure} if failure and ready and ready[0].fingerprint else {}
    now = STARTED + timedelta(hours=1)
    plan = decide(run, Observation(manifests=known, now=now, failures=failures))
    return Recorded(run, graph, artifacts, plan.status, recorder.rows)


def machines(count: int) -> list[str]:
    """Short texts about machines that do not exist."""
    chance = random.Random(count)
    names, kinds, places = (
        ("Ben", "Dra", "Fur", "Gru"),
        ("kiln", "pump", "crane", "relay"),
        ("Orvale", "Tinmere", "Halsby", "Quorn"),
    )
    return [
        f"The {chance.choice(names)}{n} {chance.choice(kinds)} stands in {chance.choice(places)}. "
        f"It needs {chance.randint(2, 9)} litres of oil and is checked every {chance.randint(10, 90)} days."
        for n in range(1, count + 1)
    ]


class _Recorder:
    def __init__(
        self,
        artifacts: Artifacts,
        scratch: Path,
        documents: Sequence[str],
        items: int,
        accuracy: Callable[[int], float],
    ) -> None:
        self.artifacts = artifacts
        self.scratch = scratch
        self.documents = [{"id": sha256(text.encode())[:16], "text": text, "language": "en"} for text in documents]
        self.documents.sort(key=lambda row: row["id"])
        self.items = [
            {"id": f"item-{n:03}", "question": f"What is fact {n}?", "answer": f"value {n}"} for n in range(items)
        ]
        self.accuracy = accuracy
        self.rows: dict[str, dict[str, Sequence[Row]]] = {}
        self.clock = 0.0

    def finish(self, stage: Stage) -> Manifest:
        assert stage.fingerprint is not None
        self.rows[stage.id] = {}
        chance = random.Random(f"{stage.id}/{stage.parameters.get('seed')}")
        make = {
            Kind.PREPARE: self._prepare,
            Kind.GENERATE: self._generate,
            Kind.SCORE: self._score,
            Kind.TRAIN: self._train,
            Kind.EVALUATE: self._evaluate,
            Kind.PUBLISH: self._publish,
        }[stage.kind]
        outputs, metrics = make(stage, chance)
        seconds = round(chance.uniform(1, 9), 3)
        started = STARTED + timedelta(seconds=self.clock)
        self.clock += seconds
        return Manifest(
            fingerprint=stage.fingerprint,
            kind=stage.kind,
            semantics=SEMANTICS[stage.kind],
            round=stage.round,
            parameters=dict(stage.parameters),
            inputs={name: source.digest or "" for name, source in stage.inputs.items()},
            outputs=outputs,
            metrics=metrics,
            timings=Timings(
                started_at=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
                total=seconds,
                load=round(seconds * 0.1, 3),
                work=round(seconds * 0.8, 3),
                io=round(seconds * 0.1, 3),
                gpus=1,
            ),
            versions={"python": "3.11.4", "torch": "2.13.0"},
        )

    def _put(self, stage: Stage, output: str, rows: Sequence[Row]) -> Artifact:
        self.rows[stage.id][output] = rows
        path = self.scratch / "rows.jsonl"
        path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
        return self.artifacts.put_file(path, len(rows))

    def _tree(self, stage: Stage) -> Artifact:
        folder = self.scratch / "adapter"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text('{"r":16}', encoding="utf-8")
        (folder / "adapter_model.safetensors").write_bytes(f"weights of {stage.fingerprint}".encode())
        return self.artifacts.put_tree(folder)

    def _prepare(self, stage: Stage, _chance: random.Random) -> tuple[dict[str, Artifact], dict[str, Any]]:
        match stage.parameters["source"]:
            case "Model":
                listing = {"files": [], "architecture": "Qwen2ForCausalLM", "parameters": 1_100_000, "vocabulary": 512}
                return {"model": self._put(stage, "model", [listing])}, {"parameters": 1_100_000}
            case "Adapter":
                return {"adapter": self._tree(stage)}, {}
            case "Documents":
                sources = [{"id": row["id"], "source": f"{n}.txt"} for n, row in enumerate(self.documents)]
                outputs = {
                    "documents": self._put(stage, "documents", self.documents),
                    "sources": self._put(stage, "sources", sources),
                    "rejects": self._put(
                        stage, "rejects", [{"source": "empty.txt", "reason": "Empty", "detail": "no text"}]
                    ),
                }
                return outputs, {
                    "documents": len(self.documents),
                    "chunks": len(self.documents),
                    "duplicates": 1,
                    "nearDuplicates": 2,
                    "rejects": {"Empty": 1},
                    "characters": sum(len(row["text"]) for row in self.documents),
                }
            case _:
                return {"items": self._put(stage, "items", self.items)}, {"items": len(self.items)}

    def _generate(self, stage: Stage, chance: random.Random) -> tuple[dict[str, Artifact], dict[str, Any]]:
        pairs: list[Row] = []
        rejects: list[Row] = []
        counts: dict[str, dict[str, int]] = {"question": {}, "answer": {}}
        for document in self.documents:
            for k in range(1, int(str(stage.parameters["questionsPerDocument"])) + 1):
                subject = document["text"].partition(" stands")[0].removeprefix("The ")
                question = f"Round {stage.round}: what does the {subject} need? ({k})"
                answer = document["text"].partition(". ")[2] or document["text"]
                reason = chance.choice(["Duplicate", "NoQuestion"]) if chance.random() < 0.15 else None
                if reason:
                    which = "question" if reason == "NoQuestion" else "answer"
                    counts[which][reason] = counts[which].get(reason, 0) + 1
                    rejects.append(
                        {
                            "document": document["id"],
                            "question": question,
                            "answer": answer if which == "answer" else "",
                            "reason": reason,
                        }
                    )
                else:
                    pairs.append(
                        {
                            "id": f"{document['id']}-q{k}",
                            "document": document["id"],
                            "question": question,
                            "answer": answer,
                        }
                    )
        outputs = {"pairs": self._put(stage, "pairs", pairs), "rejects": self._put(stage, "rejects", rejects)}
        return outputs, {
            "documents": len(self.documents),
            "questions": len(pairs) + len(rejects),
            "pairs": len(pairs),
            "rejects": counts,
            "coverage": {"covered": len({pair["document"] for pair in pairs}), "documents": len(self.documents)},
            "questionTokens": _deciles(len(pair["question"].split()) for pair in pairs),
            "answerTokens": _deciles(len(pair["answer"].split()) for pair in pairs),
        }

    def _score(self, stage: Stage, chance: random.Random) -> tuple[dict[str, Artifact], dict[str, Any]]:
        pairs = self.rows[f"r{stage.round}-generate"]["pairs"]
        rows = []
        for n, pair in enumerate(pairs):
            undefined = n == 0
            ifd = round(chance.uniform(0.2, 1.1), 4)
            rows.append(
                {
                    "id": pair["id"],
                    "ifd": None if undefined else ifd,
                    "reason": "AnswerEmpty" if undefined else None,
                    "loss": None if undefined else ifd,
                    "lossAlone": None if undefined else 1.0,
                    "tokens": 0 if undefined else 7,
                }
            )
        known = sorted(row["ifd"] for row in rows if row["ifd"] is not None)
        quantiles = [known[round(q * (len(known) - 1))] for q in (0, 0.25, 0.5, 0.75, 1)] if known else []
        return {"scores": self._put(stage, "scores", rows)}, {
            "pairs": len(rows),
            "scored": len(known),
            "undefined": {"AnswerEmpty": 1} if rows else {},
            "quantiles": quantiles,
            "ifd": _deciles(known),
        }

    def _train(self, stage: Stage, chance: random.Random) -> tuple[dict[str, Artifact], dict[str, Any]]:
        log = [
            {
                "step": step,
                "loss": round(2.5 / (stage.round + 0.3 * step) + chance.uniform(0, 0.1), 4),
                "learningRate": 1e-4 * (1 - step / STEPS),
            }
            for step in range(1, STEPS + 1)
        ]
        history = [{"id": row["id"], "round": r} for r in range(1, stage.round) for row in self._pairs(r)[:3]]
        outputs = {
            "adapter": self._tree(stage),
            "log": self._put(stage, "log", log),
            "selection": self._put(stage, "selection", history),
            "card": self._put(stage, "card", [{"card": stage.id}]),
        }
        return outputs, {
            "steps": len(log),
            "loss": round(sum(row["loss"] for row in log) / len(log), 6),
            "firstLoss": log[0]["loss"],
            "rows": len(self._pairs(stage.round)) + len(history),
            "history": len(history),
            "tokens": 1000,
        }

    def _pairs(self, round_: int) -> Sequence[Row]:
        return self.rows[f"r{round_}-generate"]["pairs"]

    def _evaluate(self, stage: Stage, chance: random.Random) -> tuple[dict[str, Artifact], dict[str, Any]]:
        metrics = [str(metric) for metric in _list(stage.parameters["metrics"])]
        right = set(chance.sample(range(len(self.items)), round(self.accuracy(stage.round) * len(self.items))))
        rows = [
            {
                **item,
                "prediction": item["answer"] if n in right else f"something else {n}",
                "scores": {metric: 1.0 if n in right else 0.0 if metric == "ExactMatch" else 0.2 for metric in metrics},
            }
            for n, item in enumerate(self.items)
        ]
        scores = {}
        for metric in metrics:
            mean = sum(row["scores"][metric] for row in rows) / len(rows)
            half = 1.96 * (mean * (1 - mean) / len(rows)) ** 0.5
            scores[metric] = {
                "mean": round(mean, 6),
                "low": round(max(0.0, mean - half), 6),
                "high": round(min(1.0, mean + half), 6),
                "n": len(rows),
            }
        return {"predictions": self._put(stage, "predictions", rows)}, {"scores": scores, "overlap": 0}

    def _publish(self, stage: Stage, _chance: random.Random) -> tuple[dict[str, Artifact], dict[str, Any]]:
        return {"published": self._put(stage, "published", [{"uri": stage.parameters["uri"]}])}, {}


def _deciles(values: Iterable[float]) -> dict[str, float]:
    """The quantiles 0.1, 0.5 and 0.9."""
    known = sorted(values)
    return {f"{q}": known[round(q * (len(known) - 1))] for q in (0.1, 0.5, 0.9)} if known else {}


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value
