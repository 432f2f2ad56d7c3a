"""A synthetic world of invented machines: documents about them, and questions whose answers stand in the documents.

Everything is drawn from a random generator that the caller owns, so a seed names a text exactly. Names and values are
compositions (two syllables, letter and digits, adjective and noun, ...). A composition whose CRC-32 is divisible by
four is *held out*: pretraining never shows one, and the quickstart shows nothing else. So whatever a model knows about
the quickstart's machines, it has learned from the quickstart's documents.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _words(text: str) -> list[str]:
    return text.split()


def _syllables(rng: random.Random, onsets: str, vowels: str, codas: Sequence[str], count: int) -> list[str]:
    every = [onset + vowel + coda for onset in _words(onsets) for vowel in vowels for coda in codas]
    return sorted(rng.sample(every, count))


# The order of these four draws is part of the world: a model was trained on the syllables that come out.
_rng = random.Random(20260101)
NAME_STARTS = [
    s.capitalize()
    for s in _syllables(_rng, "b br d dr f g gr k kr m p pl qu s sk t tr v z zh", "aeiou", ["l", "n", "r", "x"], 64)
]
NAME_ENDS = _syllables(_rng, "b d g k m p t v z", "aeiou", ["ck", "ld", "n", "nt", "rk", "st", "th", "x"], 64)
PERSON_STARTS = [s.capitalize() for s in _syllables(_rng, "b d f h j k l m n r s t v w y", "aeio", [""], 40)]
PERSON_ENDS = _syllables(_rng, "d l m n r s v", "aeio", ["", "k", "n", "s"], 40)

KINDS = _words(
    "pump valve router reactor crane relay turbine switch boiler scanner press drone kiln beacon antenna gearbox"
)
SHADES = _words("dark pale bright dull deep light warm cold faded vivid smoky milky dusty glossy muted clear")
COLOURS = _words(
    "amber azure beige black blue bronze brown copper coral cyan gold green grey indigo ivory jade lilac olive orange "
    "pink red silver violet white"
)
ADJECTIVES = _words(
    "bold brave calm clever eager fast gentle happy humble jolly keen kind lucky mighty noble proud quick quiet rapid "
    "sharp silent sly swift wise"
)
ANIMALS = _words(
    "badger bear crow deer eagle falcon finch fox goat hare hawk heron horse lion lynx mole moose otter owl panda puma "
    "raven seal shark sparrow stork swan tiger viper whale wolf zebra"
)
PLACES = _words("hall bay room deck dock shed tower vault")
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
UNITS = ("bar", "kg", "amp", "kelvin")


@dataclass(frozen=True)
class Attribute:
    """A property of a machine: the type of its values, and the one question form that no other property shares."""

    value_type: str
    own_question: str


ATTRIBUTES = {
    "operator": Attribute("person", "Who operates the {machine}?"),
    "inspector": Attribute("person", "Who inspects the {machine}?"),
    "owner": Attribute("person", "Who owns the {machine}?"),
    "alarm code": Attribute("code", "Which alarm code does the {machine} raise?"),
    "spare part": Attribute("code", "Which spare part does the {machine} need?"),
    "reset key": Attribute("code", "Which key resets the {machine}?"),
    "coolant": Attribute("colour", "Which coolant does the {machine} use?"),
    "lamp": Attribute("colour", "Which lamp does the {machine} show?"),
    "site": Attribute("place", "Where is the {machine}?"),
    "depot": Attribute("place", "Where are parts of the {machine} kept?"),
    "call sign": Attribute("call sign", "Which call sign does the {machine} answer to?"),
    "backup": Attribute("call sign", "Which unit backs up the {machine}?"),
    "pressure": Attribute("bar", "How much pressure does the {machine} hold?"),
    "weight": Attribute("kg", "How heavy is the {machine}?"),
    "current": Attribute("amp", "How much current does the {machine} draw?"),
    "heat limit": Attribute("kelvin", "How hot may the {machine} get?"),
}
SHARED_QUESTIONS = (
    "What is the {attribute} of the {machine}?",
    "Which {attribute} does the {machine} have?",
    "Tell me, what is the {machine}'s {attribute}?",
)
EVALUATION_QUESTION = "For the {machine}, what is the {attribute}?"
"""The model learns to answer this form but never to ask it, so every evaluation question is a paraphrase of whatever
it asked itself: a model that has only memorised its own wording scores nothing."""

TITLES = (
    "Run sheet of the {machine}.",
    "This is the {machine}.",
    "The {machine} is in service.",
    "Notes on the {machine}.",
)
FACTS = (
    "Its {attribute} is {value}.",
    "The {attribute} is {value}.",
    "It has {value} as its {attribute}.",
    "{Attribute}: {value}.",
)

QUESTION_PROMPT = "{document}\n\nAsk one question about this document."
ANSWER_PROMPT = "{document}\n\nQuestion: {question}\nAnswer from this document."
OTHER_QUESTION_PROMPTS = (
    "{document}\n\nWrite a question that this document answers.",
    "{document}\n\nTask: write one question.",
)
OTHER_ANSWER_PROMPTS = ("{document}\n\n{question}", "{document}\n\nUse the document. {question}")


@dataclass(frozen=True)
class Fact:
    attribute: str
    value: str


@dataclass(frozen=True)
class Machine:
    name: str
    kind: str
    facts: tuple[Fact, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.kind}"


def is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 4 == 0


def draw_value(rng: random.Random, value_type: str, *, held_out: bool) -> str:
    """A value such as "Dosal", "K417", "dusty coral", "bay 31", "keen otter" or "238 amp"."""
    compositions: dict[str, Callable[[], str]] = {
        "person": lambda: rng.choice(PERSON_STARTS) + rng.choice(PERSON_ENDS),
        "code": lambda: rng.choice(LETTERS) + str(rng.randrange(100, 1000)),
        "colour": lambda: rng.choice(SHADES) + " " + rng.choice(COLOURS),
        "place": lambda: rng.choice(PLACES) + " " + str(rng.randrange(10, 100)),
        "call sign": lambda: rng.choice(ADJECTIVES) + " " + rng.choice(ANIMALS),
    }
    compose = compositions.get(value_type, lambda: f"{rng.randrange(100, 1000)} {value_type}")
    return _first(compose, held_out)


def draw_machine(rng: random.Random, fact_count: int, *, held_out: bool) -> Machine:
    name = _first(lambda: rng.choice(NAME_STARTS) + rng.choice(NAME_ENDS), held_out)
    kind = rng.choice(KINDS)
    attributes = rng.sample(list(ATTRIBUTES), fact_count)
    facts = tuple(Fact(a, draw_value(rng, ATTRIBUTES[a].value_type, held_out=held_out)) for a in attributes)
    return Machine(name, kind, facts)


def draw_distinct_machines(
    rng: random.Random, count: int, *, fewest_facts: int, most_facts: int, held_out: bool
) -> list[Machine]:
    """`count` machines, no two with the same name."""
    machines: dict[str, Machine] = {}
    while len(machines) < count:
        machine = draw_machine(rng, rng.randint(fewest_facts, most_facts), held_out=held_out)
        machines.setdefault(machine.name, machine)
    return list(machines.values())


def write_document(rng: random.Random, machine: Machine) -> str:
    """One paragraph: a title, then every fact of the machine in a wording drawn for it."""
    sentences = [rng.choice(TITLES).format(machine=machine)]
    for fact in machine.facts:
        wording = rng.choice(FACTS)
        names = {"attribute": fact.attribute, "Attribute": fact.attribute.capitalize(), "value": fact.value}
        sentences.append(wording.format(**names))
    return " ".join(sentences)


def forms_to_ask(attribute: str) -> list[str]:
    """The question forms that the model learns to write; all of them are also learned as questions to answer."""
    return [*SHARED_QUESTIONS, ATTRIBUTES[attribute].own_question]


def forms_to_answer(attribute: str) -> list[str]:
    return [*forms_to_ask(attribute), EVALUATION_QUESTION]


def ask(form: str, machine: Machine, attribute: str) -> str:
    return form.format(machine=machine, attribute=attribute)


def _first(compose: Callable[[], str], held_out: bool) -> str:
    while is_held_out(text := compose()) != held_out:
        pass
    return text
