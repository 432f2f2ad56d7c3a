"""The quickstart is honest: its model cannot know the answers, and its files are what the scripts write."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import world
from corpus import NO_LABEL, Corpus, Row, Task, document_row, to_batch
from pretrain import PHASES, phase_folder, target_logits
from tokenizer import END, THEN_ASSISTANT, USER, train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from write_quickstart import MACHINES, write_quickstart

from evolution.api.load import load_run
from evolution.api.run import EvolutionRunSpec

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
DOCUMENTS = {path.stem: path.read_text(encoding="utf-8") for path in (QUICKSTART / "documents").iterdir()}
QUESTIONS = [json.loads(line) for line in (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def attribute_and_machine(item: dict[str, str]) -> tuple[str, str]:
    """What an evaluation question asks about, by its form; fails for a question of any other form."""
    before, between = world.EVALUATION_QUESTION.split("{machine}")
    between, after = between.split("{attribute}")
    question = item["question"]
    assert question.startswith(before)
    assert question.endswith(after)
    machine, attribute = question.removeprefix(before).removesuffix(after).split(between)
    return attribute, machine


def document_of(item: dict[str, str]) -> str:
    _, machine = attribute_and_machine(item)
    return DOCUMENTS[machine.lower().replace(" ", "-")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(QUICKSTART / "model")


@pytest.fixture(scope="module")
def spec() -> EvolutionRunSpec:
    return load_run(QUICKSTART / "run.yaml").spec


def test_there_is_one_document_for_each_of_fifty_machines_and_a_question_for_each_of_their_facts() -> None:
    assert len(DOCUMENTS) == MACHINES == 50
    sentences_after_the_title = sum(text.count(". ") for text in DOCUMENTS.values())
    assert len(QUESTIONS) == sentences_after_the_title
    assert len({item["question"] for item in QUESTIONS}) == len(QUESTIONS)


def test_no_name_or_value_of_the_quickstart_occurs_in_pretraining() -> None:
    for item in QUESTIONS:
        _, machine = attribute_and_machine(item)
        name, _kind = machine.split(" ")
        assert world.is_held_out(name)
        assert world.is_held_out(item["answer"])
    corpus = Corpus(random.Random(0), seed=7)
    trained_on = [corpus.document_row(4, 6, 6, 3) for _ in range(200)] + [corpus.known_row(50) for _ in range(20)]
    targets = {b.target.removesuffix(END) for row in trained_on for b in row.branches if b.task is not Task.ASK}
    assert not any(world.is_held_out(target) for target in targets)
    assert not targets & {item["answer"] for item in QUESTIONS}


def test_every_answer_stands_in_the_document_of_its_machine_and_names_the_attribute_asked_for() -> None:
    for item in QUESTIONS:
        attribute, machine = attribute_and_machine(item)
        title, *sentences = document_of(item).strip().split(". ")
        assert machine in title
        assert [s for s in sentences if item["answer"] in s and attribute in s.lower()], item


def test_the_evaluation_form_is_never_among_the_questions_that_the_model_learns_to_write() -> None:
    for attribute in world.ATTRIBUTES:
        assert world.EVALUATION_QUESTION not in world.forms_to_ask(attribute)
    start = world.EVALUATION_QUESTION.split("{machine}")[0]
    rng = random.Random(0)
    rows = [document_row(rng, world.draw_machine(rng, 6, held_out=False), 0, 6) for _ in range(200)]
    assert not [b for row in rows for b in row.branches if b.target.startswith(start)]


def test_the_committed_files_are_what_the_script_writes(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "left-over.txt").write_text("of another seed")
    write_quickstart(tmp_path, seed=1)
    written = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    committed = {name: (QUICKSTART / name).read_bytes() for name in written if (QUICKSTART / name).exists()}
    assert written == committed
    assert len(written) == MACHINES + 1


def test_the_model_folder_holds_safetensors_and_nothing_that_runs_code() -> None:
    names = {path.name for path in (QUICKSTART / "model").iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "auto_map" not in json.loads((QUICKSTART / "model" / "config.json").read_text())


def test_the_tokenizer_is_the_one_that_the_script_trains(tmp_path: Path) -> None:
    train_tokenizer(seed=7).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (QUICKSTART / "model" / name).read_bytes()


def test_pretraining_uses_the_chat_template_of_the_model(tokenizer: PreTrainedTokenizerBase) -> None:
    chat: list[dict[str, Any]] = [{"role": "user", "content": "Who owns the Beldock pump?"}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert asked == USER + "Who owns the Beldock pump?" + THEN_ASSISTANT


def test_a_value_has_the_same_tokens_in_a_document_at_the_start_of_an_answer_and_alone(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for item in QUESTIONS:
        alone = tokens(item["answer"])
        document = tokens(document_of(item))
        assert any(document[at : at + len(alone)] == alone for at in range(len(document))), item
        prompt = USER + item["question"] + THEN_ASSISTANT
        assert tokens(prompt + item["answer"] + END) == [*tokens(prompt), *alone, *tokens(END)]


def test_the_run_file_uses_the_instructions_that_the_model_was_trained_to_follow(spec: EvolutionRunSpec) -> None:
    assert spec.generation.prompts.question == world.QUESTION_PROMPT
    assert spec.generation.prompts.answer == world.ANSWER_PROMPT


def test_documents_questions_and_answers_fit_the_limits_of_the_run_file(
    spec: EvolutionRunSpec, tokenizer: PreTrainedTokenizerBase
) -> None:
    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    longest_document = max(length(text) for text in DOCUMENTS.values())
    longest_question = max(length(item["question"]) for item in QUESTIONS)
    longest_answer = max(length(item["answer"] + END) for item in QUESTIONS)
    assert longest_document <= spec.documents.max_tokens
    assert longest_answer <= spec.evaluation.max_tokens
    assert longest_question < spec.generation.max_tokens
    assert length(USER + THEN_ASSISTANT) + longest_question + longest_answer <= spec.training.max_tokens
    instructions = length(USER + world.ANSWER_PROMPT + THEN_ASSISTANT)
    assert longest_document + instructions + 2 * spec.generation.max_tokens <= tokenizer.model_max_length


def test_a_branch_is_trained_as_if_it_stood_alone_behind_its_document(tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(QUICKSTART / "model", dtype=torch.float32).eval()
    rng = random.Random(0)
    weights = dict.fromkeys(Task, 1.0)
    together = [document_row(rng, world.draw_machine(rng, n, held_out=True), 6, 2) for n in (4, 6)]
    apart = [Row(row.document, [branch]) for row in together for branch in row.branches]
    with torch.no_grad():
        logits = [target_logits(model, to_batch(tokenizer, rows, weights)) for rows in (together, apart)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_the_loss_is_on_targets_only(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random(0)
    row = document_row(rng, world.draw_machine(rng, 5, held_out=False), 5, 2)
    batch = to_batch(tokenizer, [row], dict.fromkeys(Task, 1.0))
    learned = tokenizer.decode(batch.labels[batch.labels != NO_LABEL])
    assert learned == "".join(branch.target for branch in row.branches)


def test_a_phase_with_another_recipe_behind_it_is_another_phase(tmp_path: Path) -> None:
    folders = [phase_folder(tmp_path / "model", PHASES[:n], 7) for n in (1, 2, 3)]
    assert all(a.parent == b.parent and a != b for a, b in pairwise(folders))
    skipping_one = phase_folder(tmp_path / "model", [PHASES[0], PHASES[2]], 7)
    assert skipping_one not in folders
    assert phase_folder(tmp_path / "model", PHASES, 8) != folders[-1]
