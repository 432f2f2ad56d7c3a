"""Which candidates are kept, told with an engine that says what the tests wrote down for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted import PROMPTS, Script
from small_run import QUICKSTART
from stages import GENERATE, TRAIN, Bench, Done

from evolution_trainer import generate, train
from evolution_trainer.candidates import Choice, waves
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.preemption import Preempted
from evolution_trainer.rests import after, rests_in
from evolution_trainer.seeds import seed

PUMP = {"id": "a" * 16, "language": "en", "text": "The pump Varo weighs 12 kg. Its colour is green. It stands in Lund."}
VALVE = {"id": "b" * 16, "language": "en", "text": "The valve Ombra closes at 80 bar. It was made by Nils."}
FACTS = {
    "How heavy is Varo?": "12 kg",
    "What is the weight of Varo?": "12 kg.",
    "What colour is Varo?": "green",
    "Where is Varo?": "It stands in Lund.",
    "At what pressure does Ombra close?": "80 bar",
    "Who made Ombra?": "It was made by Nils.",
}
PUMP_QUESTIONS, VALVE_QUESTIONS = list(FACTS)[:4], list(FACTS)[4:]
CHOOSING = {**GENERATE, **PROMPTS, "questionsPerDocument": 1, "candidates": 4, "focus": "Unknown", "similarity": 0.8}


def in_turn(document: str, number: int) -> str:
    """The questions of the document, one after the other, over and over."""
    questions = PUMP_QUESTIONS if "Varo" in document else VALVE_QUESTIONS
    return questions[(number - 1) % len(questions)]


@pytest.fixture
def script(session: ModelSession, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Asks `in_turn`, answers by `FACTS`, knows nothing by heart."""
    ids = [(document["id"], round_, n) for document in (PUMP, VALVE) for round_ in (1, 2, 3, 4) for n in range(1, 65)]
    numbers = {seed(7, round_, "question", f"{id_}-q{n}"): n for id_, round_, n in ids}
    script = Script(session, in_turn, dict(FACTS), numbers=numbers)
    monkeypatch.setattr("evolution_trainer.writer.opened_engine", script.opened)
    return script


def choose(
    bench: Bench, *documents: Mapping[str, str], inputs: Mapping[str, str] | None = None, **changes: Any
) -> Done:
    return bench.do(generate, {**CHOOSING, **changes}, documents=bench.put(documents), **(inputs or {}))


def asked(done: Done) -> list[str]:
    return [pair["question"] for pair in done.rows("pairs")]


def reasons(done: Done) -> dict[str, str]:
    return {row["question"]: row["reason"] for row in done.rows("rejects")}


def pairs_of(bench: Bench, *questions: str) -> dict[str, str]:
    """Pairs of an earlier round, as an input."""
    rows = [{"id": PUMP["id"] + "-q1", "document": PUMP["id"], "question": q, "answer": FACTS[q]} for q in questions]
    return {"pairs_1": bench.put(rows)}


def test_what_the_model_answers_without_the_document_is_not_asked_again(bench: Bench, script: Script) -> None:
    script.memory = {
        "How heavy is Varo?": "12 KG",
        "What is the weight of Varo?": "12 kg",
        "What colour is Varo?": "red",
    }
    done = choose(bench, PUMP)
    assert asked(done) == ["What colour is Varo?"]
    assert reasons(done) == {
        "How heavy is Varo?": "KnownAlready",
        "What is the weight of Varo?": "KnownAlready",
        "Where is Varo?": "Surplus",
    }
    assert done.metrics["rejects"]["answer"] == {"KnownAlready": 2, "Surplus": 1}


def test_what_was_asked_before_and_is_not_known_is_asked_again(bench: Bench, script: Script) -> None:
    first = choose(bench, PUMP)
    second = choose(bench, PUMP, round=2, inputs={"rests": first.digest("rests")})
    assert asked(first) == asked(second) == ["How heavy is Varo?"]
    script.memory = {"How heavy is Varo?": "12 kg"}
    third = choose(bench, PUMP, round=3, inputs={"rests": second.digest("rests")})
    assert asked(third) == ["What is the weight of Varo?"]


def test_novel_is_what_no_earlier_pair_of_the_document_says(bench: Bench, script: Script) -> None:
    done = choose(bench, PUMP, VALVE, focus="Novel", inputs=pairs_of(bench, "How heavy is Varo?", "Where is Varo?"))
    assert asked(done) == ["What colour is Varo?", "At what pressure does Ombra close?"]
    assert reasons(done)["What is the weight of Varo?"] == "NotNovel"
    assert reasons(done)["How heavy is Varo?"] == "NotNovel"
    assert script.count("memory") == 0


def test_no_two_pairs_that_are_kept_of_a_document_have_the_same_answer(bench: Bench, script: Script) -> None:
    for focus in ("Any", "Unknown"):
        done = choose(bench, PUMP, questionsPerDocument=2, focus=focus)
        assert asked(done) == ["How heavy is Varo?", "What colour is Varo?"]
        assert reasons(done)["What is the weight of Varo?"] == "Duplicate"
    assert script.count("memory") > 0


def test_what_names_something_that_the_document_does_not_is_dropped(bench: Bench, script: Script) -> None:
    script.answers = {**FACTS, "How heavy is Varo?": "21 kg", "What is the weight of Varo?": "That of Ombra."}
    done = choose(bench, PUMP, focus="Any")
    assert asked(done) == ["What colour is Varo?"]
    script.questions = lambda _, number: VALVE_QUESTIONS[0] if number == 1 else PUMP_QUESTIONS[2]
    again = choose(bench, PUMP, focus="Any")
    assert reasons(done)["How heavy is Varo?"] == reasons(done)["What is the weight of Varo?"] == "NotGrounded"
    assert again.metrics["rejects"]["question"] == {"NotGrounded": 1}
    assert ("answer", VALVE_QUESTIONS[0]) not in script.asked


def test_a_document_that_has_its_pairs_is_asked_no_further_and_a_barren_one_up_to_the_limit(
    bench: Bench, script: Script
) -> None:
    script.memory = {question: FACTS[question] for question in VALVE_QUESTIONS}
    choose(bench, PUMP, VALVE, candidates=8)
    assert script.asked.count(("question", PUMP["text"])) == 1
    assert script.asked.count(("question", VALVE["text"])) == 8
    assert script.count("answer") == script.count("memory") == 1 + len(VALVE_QUESTIONS)


def test_scratch_does_not_grow_with_the_waves(bench: Bench, script: Script) -> None:
    script.memory = dict(FACTS)
    stage = bench.stage({**CHOOSING, "candidates": 8}, documents=bench.put([PUMP, VALVE]), rests=bench.put([]))
    generate.run(stage)
    assert len(list(stage.scratch.glob("known*"))) == 1


def test_every_wave_asks_as_much_as_all_before_it() -> None:
    choice = Choice(rules="Default", questions_per_document=3, candidates=7, focus="Novel")
    assert [list(wave) for wave in waves(choice)] == [
        [1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11, 12], list(range(13, 22)),
    ]  # fmt: skip
    assert [len(wave) for wave in waves(Choice(rules="Default", questions_per_document=3))] == [3]


def test_a_document_that_gave_nothing_rests_and_is_not_asked_meanwhile(bench: Bench, script: Script) -> None:
    script.memory = {question: FACTS[question] for question in VALVE_QUESTIONS}
    inputs: dict[str, str] = {}
    kept, barren = [], []
    for round_ in (1, 2, 3):
        script.asked.clear()
        done = choose(bench, PUMP, VALVE, round=round_, inputs=inputs)
        kept.append(done.metrics["pairs"])
        barren.append(
            (script.asked.count(("question", VALVE["text"])), done.metrics["exhausted"], done.metrics["resting"])
        )
        inputs = {"rests": done.digest("rests")}
    assert barren == [(4, 1, 0), (0, 0, 1), (4, 1, 0)]
    assert kept == [1, 1, 1]
    assert done.rows("rests") == [{"document": VALVE["id"], "misses": 2, "until": 5}]


def test_rests_double_and_end_with_the_first_pair() -> None:
    rest, asked_in = None, []
    for round_ in range(1, 20):
        if not rests_in(rest, round_):
            asked_in.append(round_)
        rest = after(rest, "d", round_, gave=False)
    assert asked_in == [1, 3, 6, 11]
    assert after({"document": "d", "misses": 3, "until": 9}, "d", 10, gave=True) is None


def test_a_round_that_finds_nothing_new_has_no_pairs_and_says_so(bench: Bench, script: Script) -> None:
    script.memory = dict(FACTS)
    done = choose(bench, PUMP, VALVE, round=2, inputs={"rests": bench.put([])})
    assert done.rows("pairs") == []
    assert done.metrics["exhausted"] == 2
    assert "nothing new was found in 2 documents" in done.result.warnings[0]
    resting = choose(bench, PUMP, VALVE, round=3, inputs={"rests": done.digest("rests")})
    assert "(2 rested)" in resting.result.warnings[0]


def test_a_round_that_asks_only_what_was_asked_before_has_no_pairs_and_says_so(bench: Bench, script: Script) -> None:
    inputs = {"rests": bench.put([]), **pairs_of(bench, "How heavy is Varo?")}
    script.questions = lambda *_: "How heavy is Varo?"
    done = choose(bench, PUMP, round=2, focus="Novel", inputs=inputs)
    assert done.metrics["rejects"]["question"] == {"NotNovel": 4}
    assert "nothing new was found" in done.result.warnings[0]


def test_a_first_round_that_finds_nothing_new_fails_with_what_to_do(bench: Bench, script: Script) -> None:
    script.memory = dict(FACTS)
    with pytest.raises(StageFailed, match=r"KnownAlready.*generation\.focus to Any") as failure:
        choose(bench, PUMP)
    assert failure.value.reason == "NothingNew"
    script.questions = lambda *_: "No question at all."
    with pytest.raises(StageFailed, match="NotAQuestion") as failure:
        choose(bench, PUMP)
    assert failure.value.reason == "NoPairs"


def test_the_learner_is_asked_without_the_document_and_the_writer_writes(
    bench: Bench, script: Script, lora: Path
) -> None:
    learner = bench.artifacts.put_tree(lora).digest
    folder = bench.artifacts.fetch_tree(learner).name
    choose(bench, PUMP, VALVE, inputs={"learner": learner})
    assert script.adapters == ["", folder]
    script.adapters.clear()
    choose(bench, PUMP, VALVE, inputs={"learner": learner, "adapter": learner})
    assert script.adapters == [folder]


def test_answers_are_not_taken_over_where_the_questions_have_become_others(bench: Bench, script: Script) -> None:
    """On a GPU the model may ask something else when what it asked was lost."""
    stage = bench.stage({**CHOOSING, "focus": "Any"}, documents=bench.put([PUMP]))
    stage.checkpoints.interval = 0.0
    generate.run(stage)
    store = bench.artifacts.store
    lost = [found.key for found in store.list(stage.checkpoints.prefix) if "/question" in found.key]
    for key in lost:
        store.delete(key)
    script.questions = lambda *_: "What colour is Varo?"
    [pair] = choose(bench, PUMP, focus="Any").rows("pairs")
    assert lost
    assert (pair["question"], pair["answer"]) == ("What colour is Varo?", "green")


class Killed(Exception):
    """Nothing is saved on the way out."""


@pytest.mark.parametrize(("signal", "interval"), [(Preempted, 3600.0), (Killed, 0.0)])
@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5, 7, 8])
def test_an_interrupted_worker_goes_on_at_the_row(
    bench: Bench,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    signal: type[BaseException],
    interval: float,
    calls: int,
) -> None:
    monkeypatch.setattr("evolution_trainer.writer.WINDOW", 1)
    script.memory = {question: FACTS[question] for question in PUMP_QUESTIONS[:2]}
    (bench.folder / "elsewhere").mkdir()
    whole = choose(Bench(bench.folder / "elsewhere", bench.session), PUMP, VALVE)
    requests = script.asked.copy()
    script.asked.clear()
    script.calls_left, script.signal = calls, signal
    stage = bench.stage(CHOOSING, documents=bench.put([PUMP, VALVE]))
    stage.checkpoints.interval = interval
    with pytest.raises(signal):
        generate.run(stage)
    script.calls_left = 1000
    done = choose(bench, PUMP, VALVE)
    assert script.asked == requests
    assert {name: done.digest(name) for name in done.result.outputs} == {
        name: whole.digest(name) for name in whole.result.outputs
    }
    assert done.metrics == whole.metrics


@pytest.fixture
def demo(tmp_path: Path, demo_session: ModelSession) -> Bench:
    return Bench(tmp_path, demo_session)


def sheets(count: int) -> list[dict[str, str]]:
    files = sorted((QUICKSTART / "documents").iterdir())[:count]
    texts = [file.read_text(encoding="utf-8").strip() for file in files]
    return [{"id": f"{n:016x}", "text": text, "language": "en"} for n, text in enumerate(texts)]


@pytest.mark.slow
def test_a_model_that_learned_its_pairs_is_asked_for_others(demo: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    given = demo.put(sheets(4))
    choosing = {**GENERATE, "questionsPerDocument": 2, "candidates": 4, "focus": "Unknown", "similarity": 0.8}
    first = demo.do(generate, choosing, documents=given)
    quick = {**TRAIN, "rank": 16, "alpha": 32, "layers": [1, 2, 3], "batchSize": 10, "learningRate": 3e-3}
    learnt = demo.do(train, {**quick, "length": {"steps": 30}}, pairs=first.digest("pairs")).digest("adapter")
    inputs = {"documents": given, "learner": learnt, "rests": first.digest("rests")}
    second = demo.do(generate, {**choosing, "round": 2}, **inputs)
    assert second.metrics["rejects"]["answer"]["KnownAlready"] > 0
    said = {(pair["document"], pair["answer"]) for pair in first.rows("pairs")}
    again = [pair for pair in second.rows("pairs") if (pair["document"], pair["answer"]) in said]
    assert len(again) < len(second.rows("pairs")) / 2

    monkeypatch.setattr("evolution_trainer.writer.WINDOW", 7)
    parts = []
    for shard in range(3):
        part = generate.run_part(demo.stage({**choosing, "round": 2}, **inputs), shard, 3)
        parts.append(generate.Part(part.outputs["answers"].path, part.outputs["rejects"].path))
    together = Done(generate.merge(demo.stage({**choosing, "round": 2}, **inputs), parts), demo.artifacts)
    assert {name: together.digest(name) for name in second.result.outputs} == {
        name: second.digest(name) for name in second.result.outputs
    }
    assert together.metrics == second.metrics
