"""Two honest checks of a demo model, on machines that it has never seen.

    python examples/demo_model/check.py examples/quickstart/model

*Open book*: with the document in the prompt, the model copies the value asked for. *Closed book*: asked without the
document it cannot know, so a share above chance would mean that the held-out world has leaked into its training.
Both read the model from its folder and let it generate, as its users do.
"""

# ruff: noqa: T201  (a program for the terminal)

import argparse
import random
import sys
from pathlib import Path

import torch
import world
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

MACHINES = 50
BATCH = 128
LONGEST_ANSWER = 12
LOWEST_OPEN_BOOK = 0.95
HIGHEST_CLOSED_BOOK = 0.02


def check_model(folder: Path) -> tuple[float, float]:
    """Shares from 0 to 1 of questions answered exactly: open book, closed book."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rng = random.Random("check")
    closed, opened, expected = [], [], []
    for machine in world.draw_distinct_machines(rng, MACHINES, fewest_facts=4, most_facts=6, held_out=True):
        document = world.write_document(rng, machine)
        for fact in machine.facts:
            question = world.ask(world.EVALUATION_QUESTION, machine, fact.attribute)
            closed.append(question)
            opened.append(world.ANSWER_PROMPT.format(document=document, question=question))
            expected.append(fact.value)
    return share_exact(model, tokenizer, opened, expected), share_exact(model, tokenizer, closed, expected)


def share_exact(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], expected: list[str]
) -> float:
    exact = 0
    for start in range(0, len(prompts), BATCH):
        answers = answer(model, tokenizer, prompts[start : start + BATCH])
        exact += sum(a == e for a, e in zip(answers, expected[start : start + BATCH], strict=True))
    return exact / len(expected)


@torch.no_grad()
def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[str]:
    """The model's greedy answers."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    written = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        do_sample=False,
        max_new_tokens=LONGEST_ANSWER,
    )
    return tokenizer.batch_decode(written[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)


def report(folder: Path) -> bool:
    """Print both shares; true if the model passes."""
    open_book, closed_book = check_model(folder)
    print(f"open book   {open_book:.3f} of the questions answered exactly (expected at least {LOWEST_OPEN_BOOK})")
    print(f"closed book {closed_book:.3f} of the questions answered exactly (expected at most {HIGHEST_CLOSED_BOOK})")
    return open_book >= LOWEST_OPEN_BOOK and closed_book <= HIGHEST_CLOSED_BOOK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a demo model")
    if not report(parser.parse_args().model):
        sys.exit("The model does not pass.")


if __name__ == "__main__":
    main()
