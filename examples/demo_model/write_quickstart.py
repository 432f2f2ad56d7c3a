"""Write the quickstart's documents and the held-out questions about them.

    python examples/demo_model/write_quickstart.py --out examples/quickstart --seed 1

Every name and value is held out from pretraining, so a model trained by `pretrain.py` knows none of the answers. Each
document is one small text file named after its machine; there is one question, in the evaluation form, for every fact.
"""

import argparse
import json
import random
from pathlib import Path

import world

MACHINES = 50


def write_quickstart(folder: Path, seed: int) -> None:
    """Write `documents/*.txt` and `questions.jsonl` below `folder`; documents of an earlier seed are removed."""
    rng = random.Random(f"demo-{seed}")
    documents = folder / "documents"
    documents.mkdir(parents=True, exist_ok=True)
    for old in documents.glob("*.txt"):
        old.unlink()
    questions = []
    for machine in world.draw_distinct_machines(rng, MACHINES, fewest_facts=4, most_facts=6, held_out=True):
        text = world.write_document(rng, machine)
        (documents / file_name(machine)).write_text(text + "\n", encoding="utf-8", newline="\n")
        questions += [evaluation_item(machine, fact) for fact in machine.facts]
    lines = "".join(json.dumps(item) + "\n" for item in questions)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8", newline="\n")


def file_name(machine: world.Machine) -> str:
    return f"{machine.name}-{machine.kind}.txt".lower()


def evaluation_item(machine: world.Machine, fact: world.Fact) -> dict[str, str]:
    return {"question": world.ask(world.EVALUATION_QUESTION, machine, fact.attribute), "answer": fact.value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder that receives documents/ and questions.jsonl"
    )
    parser.add_argument("--seed", type=int, default=1, help="which fifty machines (default 1)")
    arguments = parser.parse_args()
    write_quickstart(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
