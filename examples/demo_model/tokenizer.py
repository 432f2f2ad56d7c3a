"""The demo model's tokenizer: a stock `Qwen2Tokenizer` whose vocabulary is learned from the synthetic world.

A value must have the same tokens inside a document, at the start of an answer and alone: the model learns to copy
tokens, and where " K417" and "K417" are different tokens there is nothing to copy. Byte-level BPE would merge a word
with the space before it; here it is trained on text whose spaces stand alone, so that no merge learned contains one.
Only words of the fixed wording, which never start an answer, get a merge with their space afterwards: shorter texts.

Qwen2's own normaliser and pre-tokeniser are kept as they are: transformers rebuilds them for this model type whenever
a tokenizer is loaded, whatever its files say.
"""

import json
import random
import re
from collections.abc import Iterator

import world
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

VOCABULARY = 1280
LONGEST = 512
SPACE = "\u0120"  # how byte-level BPE writes a space

USER, THEN_ASSISTANT, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(seed: int) -> Qwen2Tokenizer:
    """A tokenizer of `VOCABULARY` tokens, trained on pretraining's side of the world."""
    wording = _fixed_words()
    bpe = Tokenizer(models.BPE())
    spaces_alone = pre_tokenizers.Split(Regex(" +|\n"), "isolated")
    like_qwen = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    bytes_as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([spaces_alone, like_qwen, bytes_as_letters])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(wording),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_sample_texts(random.Random(seed)), trainer)
    learned = json.loads(bpe.to_str())["model"]
    vocabulary: dict[str, int] = learned["vocab"]
    merges = [tuple(merge) for merge in learned["merges"]]
    for word in sorted(wording):
        if word in vocabulary:
            vocabulary[SPACE + word] = len(vocabulary)
            merges.append((SPACE, word))
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=LONGEST,
        chat_template=CHAT_TEMPLATE,
    )


def _fixed_words() -> set[str]:
    """Every word of prompts, questions, titles and fact wordings, apart from names and values."""
    texts = [
        *world.SHARED_QUESTIONS,
        world.EVALUATION_QUESTION,
        *world.FACTS,
        *world.TITLES,
        *world.KINDS,
        *world.UNITS,
    ]
    texts += [world.QUESTION_PROMPT, *world.OTHER_QUESTION_PROMPTS, world.ANSWER_PROMPT, *world.OTHER_ANSWER_PROMPTS]
    for name, attribute in world.ATTRIBUTES.items():
        texts += [name, name.capitalize(), attribute.own_question]
    return set(re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", " ", " ".join(texts))))


def _sample_texts(rng: random.Random, documents: int = 12_000) -> Iterator[str]:
    for _ in range(documents):
        machine = world.draw_machine(rng, rng.randint(4, 6), held_out=False)
        fact = rng.choice(machine.facts)
        question = world.ask(rng.choice(world.forms_to_answer(fact.attribute)), machine, fact.attribute)
        yield world.write_document(rng, machine)
        yield rng.choice([world.ANSWER_PROMPT, *world.OTHER_ANSWER_PROMPTS]).format(document="", question=question)
        yield rng.choice([world.QUESTION_PROMPT, *world.OTHER_QUESTION_PROMPTS]).format(document="")
        yield "system user assistant"
