"""A random Qwen2 of a few thousand parameters with a ChatML tokenizer, made on the spot."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_run import QUICKSTART
from stages import Bench
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from trainer.tracking_server import TrackingServer, running_tracking_server
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from evolution_trainer.model import ModelSession

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = ("What is the number of machine seven? Ask one question about this document.", "network 网络 切片 alarm licence")


def make_model(folder: Path, *, hidden: int = 32, layers: int = 2, window: int = 256) -> Path:
    """Write a random model into `folder`; the same arguments give the same weights."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(TEXT, trainer)
    bpe.save(str(folder / "bpe.json"))
    vocabulary = bpe.get_vocab()
    merges = _merges(folder / "bpe.json")
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(11)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        tie_word_embeddings=False,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def _merges(path: Path) -> list[tuple[str, str]]:
    import json

    found = json.loads(path.read_text(encoding="utf-8"))["model"]["merges"]
    path.unlink()
    return [(left, right) for left, right in found]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def session(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSession:
    return ModelSession(str(tiny_model), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def lora(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the tiny model, with random weights that change what it writes."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(12)
    config = LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(Qwen2ForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def demo_session(tmp_path_factory: pytest.TempPathFactory) -> ModelSession:
    """The quickstart's model, which can ask and answer."""
    return ModelSession(str(QUICKSTART / "model"), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def bench(tmp_path: Path, session: ModelSession) -> Bench:
    return Bench(tmp_path, session)


@pytest.fixture
def tracking_server() -> Iterator[TrackingServer]:
    with running_tracking_server() as server:
        yield server
