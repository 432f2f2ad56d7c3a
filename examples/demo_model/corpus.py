"""Training rows for the demo model, and how they become tensors.

A row is a document followed by several *branches*: a prompt about the document and the target that the model has to
write. Each branch sees the document and itself but no other branch (a block mask), at the positions it would have if
it stood alone. One pass over a document thus trains on all its questions and answers. The loss is on targets only:
document text is random, and learning to predict it would spend a small model on noise.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
import world
from tokenizer import END, THEN_ASSISTANT, USER
from transformers import PreTrainedTokenizerBase

KNOWN_MACHINES = 200
USUAL_PROMPT_SHARE = 0.7
REPEATED_WORDS = 10
NO_LABEL = -1
DOCUMENT = 0
PADDING = -2


class Task(Enum):
    ANSWER = "answer a question from the document at hand"
    ASK = "write a question about the document"
    RECALL = "answer a question about a known machine, without a document"
    REPEAT = "write the same words again"


@dataclass(frozen=True)
class Branch:
    task: Task
    prompt: str
    target: str


@dataclass(frozen=True)
class Row:
    document: str
    """What all branches share; empty where they share nothing."""
    branches: Sequence[Branch]


@dataclass(frozen=True)
class Batch:
    """Tensors of shape (rows, length); `mask` is (rows, 1, length, length) and true where attention is allowed."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    """The next token where it belongs to a target, else `NO_LABEL`."""
    weights: torch.Tensor
    branch: torch.Tensor
    """Index of the branch whose target the label belongs to."""
    tasks: list[list[Task]]
    """The task of every branch of every row."""


class Corpus:
    """Draws rows. The *known world*, a fixed set of machines, depends on `seed` only; all else on `rng`.

    Known machines are learned by heart, in all question forms. That is what lets the model later be tuned on one form
    of a question and answer another; without it, tuning memorises the wording.
    """

    def __init__(self, rng: random.Random, seed: int) -> None:
        self._rng = rng
        self._known = world.draw_distinct_machines(
            random.Random(f"known-{seed}"), KNOWN_MACHINES, fewest_facts=5, most_facts=5, held_out=False
        )
        self._known_names = {machine.name for machine in self._known}

    def document_row(self, fewest_facts: int, most_facts: int, answers: int, questions: int) -> Row:
        """A machine outside the known world: its document, `answers` questions to answer, `questions` to write."""
        machine = self._unknown_machine(fewest_facts, most_facts)
        return document_row(self._rng, machine, answers, questions)

    def known_row(self, count: int) -> Row:
        """`count` questions about machines of the known world, each alone."""
        branches = []
        for _ in range(count):
            machine = self._rng.choice(self._known)
            fact = self._rng.choice(machine.facts)
            question = world.ask(self._rng.choice(world.forms_to_answer(fact.attribute)), machine, fact.attribute)
            branches.append(Branch(Task.RECALL, USER + question + THEN_ASSISTANT, fact.value + END))
        return Row("", branches)

    def repeat_row(self, count: int) -> Row:
        """Random words, then the same words again: the shortest lesson in copying, the skill all else rests on."""
        words = [*world.SHADES, *world.COLOURS, *world.ADJECTIVES, *world.ANIMALS, *world.PLACES, *world.KINDS]
        words += [*world.NAME_STARTS, *world.PERSON_STARTS, *world.ATTRIBUTES, *world.LETTERS, *"0123456789"]
        texts = [" ".join(self._rng.choice(words) for _ in range(REPEATED_WORDS)) for _ in range(count)]
        return Row("", [Branch(Task.REPEAT, text, text) for text in texts])

    def _unknown_machine(self, fewest_facts: int, most_facts: int) -> world.Machine:
        while True:
            machine = world.draw_machine(self._rng, self._rng.randint(fewest_facts, most_facts), held_out=False)
            if machine.name not in self._known_names:
                return machine


def document_row(rng: random.Random, machine: world.Machine, answers: int, questions: int) -> Row:
    document = world.write_document(rng, machine)
    branches = []
    for fact in rng.sample(machine.facts, min(answers, len(machine.facts))):
        question = world.ask(rng.choice(world.forms_to_answer(fact.attribute)), machine, fact.attribute)
        instruction = _instruction(rng, world.ANSWER_PROMPT, world.OTHER_ANSWER_PROMPTS)
        prompt = instruction.format(document="", question=question) + THEN_ASSISTANT
        branches.append(Branch(Task.ANSWER, prompt, fact.value + END))
    for fact in rng.sample(machine.facts, min(questions, len(machine.facts))):
        instruction = _instruction(rng, world.QUESTION_PROMPT, world.OTHER_QUESTION_PROMPTS)
        question = world.ask(rng.choice(world.forms_to_ask(fact.attribute)), machine, fact.attribute)
        branches.append(Branch(Task.ASK, instruction.format(document="") + THEN_ASSISTANT, question + END))
    return Row(USER + document, branches)


def _instruction(rng: random.Random, usual: str, others: Sequence[str]) -> str:
    return usual if rng.random() < USUAL_PROMPT_SHARE else rng.choice(others)


def to_batch(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], weights: dict[Task, float]) -> Batch:
    texts = [text for row in rows for text in (row.document, *(t for b in row.branches for t in (b.prompt, b.target)))]
    tokens = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    sequences = []
    for row in rows:
        sequence = _Sequence()
        sequence.add_document(next(tokens))
        for branch in row.branches:
            sequence.add_branch(next(tokens), next(tokens), weights[branch.task])
        sequences.append(sequence)
    length = max(len(s.ids) for s in sequences)

    def padded(name: str, filler: float) -> torch.Tensor:
        lists = [getattr(s, name) for s in sequences]
        return torch.tensor([values + [filler] * (length - len(values)) for values in lists])

    segments = padded("segments", PADDING)
    same_branch = segments[:, None, :] == segments[:, :, None]
    document = (segments == DOCUMENT)[:, None, :]
    no_future = torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(
        ids=padded("ids", 0),
        positions=padded("positions", 0),
        mask=((document | same_branch) & no_future)[:, None],
        labels=padded("labels", NO_LABEL),
        weights=padded("weights", 0.0),
        branch=padded("branch", NO_LABEL),
        tasks=[[b.task for b in row.branches] for row in rows],
    )


@dataclass
class _Sequence:
    """One row as it is laid out, token by token; see `Batch` for the meaning of the lists."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    """`DOCUMENT`, or the branch's index + 1."""
    labels: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    branches: int = 0
    document_length: int = 0

    def add_document(self, document: list[int]) -> None:
        self.document_length = len(document)
        self._add(document, range(len(document)), DOCUMENT, [NO_LABEL] * len(document), 0.0, NO_LABEL)

    def add_branch(self, prompt: list[int], target: list[int], weight: float) -> None:
        tokens = prompt + target
        positions = range(self.document_length, self.document_length + len(tokens))
        labels = [NO_LABEL] * (len(prompt) - 1) + target + [NO_LABEL]
        self._add(tokens, positions, self.branches + 1, labels, weight, self.branches)
        self.branches += 1

    def _add(
        self, tokens: list[int], positions: range, segment: int, labels: list[int], weight: float, branch: int
    ) -> None:
        self.ids += tokens
        self.positions += positions
        self.segments += [segment] * len(tokens)
        self.labels += labels
        self.weights += [0.0 if label == NO_LABEL else weight for label in labels]
        self.branch += [NO_LABEL if label == NO_LABEL else branch for label in labels]
