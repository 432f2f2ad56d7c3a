"""`python -m bench.trainer.training`: tokens a second of our training beside those of TRL's SFTTrainer.

Both train the same random model on the same rows with the same LoRA and the same optimizer: one thread, fp32, no
gradient checkpointing, no packing. Each repetition runs every side in a process of its own, in turn; what counts is the
ratio within a repetition, by CPU seconds of the optimizer's steps. TRL comes with the extra `bench`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from small_run import QUICKSTART

HIDDEN, LAYERS, VOCABULARY = 256, 4, 6400
"""The head is 28 % of the weights, as in a model of 0.5B with 150,000 tokens."""
ROWS, BATCH, RANK, RATE = 160, 8, 16, 1e-4
SIDES = ("ours", "TRL", "TRL, grouped by length")
DOCUMENT = Path(__file__).parents[3] / "docs" / "benchmarks" / "trainer-training.md"
MARK = "<!-- figures -->\n"


def rows() -> list[tuple[list[int], int]]:
    """Token ids and the length of the prompt; lengths as of questions and answers about technical documents."""
    random = np.random.default_rng(7)
    prompts = random.integers(25, 60, ROWS)
    answers = np.clip(random.lognormal(4.6, 0.6, ROWS).astype(int), 8, 450)
    return [
        (random.integers(10, VOCABULARY, prompt + answer).tolist(), int(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def make_model(folder: Path) -> None:
    """Random weights with the quickstart's tokenizer, whose vocabulary is smaller."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shutil.copytree(QUICKSTART / "model", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def measured(side: str, folder: Path) -> dict[str, float]:
    """CPU and wall seconds of the steps, and the losses at both ends."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = (time.process_time(), time.perf_counter())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.cpu, self.wall = time.process_time() - self.start[0], time.perf_counter() - self.start[1]

    watch = Watch()
    losses = _ours(folder, watch) if side == "ours" else _trl(folder, watch, grouped=side != "TRL")
    fed = sum(len(ids) for ids, _ in rows())
    return {
        "tokensPerCpuSecond": round(fed / watch.cpu, 1),
        "tokensPerSecond": round(fed / watch.wall, 1),
        "firstLoss": round(losses[0], 4),
        "lastLoss": round(losses[-1], 4),
    }


def _ours(folder: Path, watch: Any) -> list[float]:
    import torch

    from evolution_trainer.fit import fit
    from evolution_trainer.model import ModelSession
    from evolution_trainer.optimizing import FitParameters
    from evolution_trainer.training_rows import Batches, TrainingRow

    parameters = FitParameters(
        rank=RANK,
        alpha=2 * RANK,
        dropout=0.0,
        target_modules=(),
        layers=(),
        seed=7,
        round=1,
        rules="Default",
        learning_rate=RATE,
        warmup_ratio=0.0,
        batch_size=BATCH,
    )
    prepared = [TrainingRow(torch.tensor(ids, dtype=torch.int32), prompt) for ids, prompt in rows()]
    batches = Batches.shuffled(prepared, BATCH, None, 1.0, 7)
    session = ModelSession(str(folder / "model"), folder / "cache")
    log = fit(session, parameters, batches, None, folder, lambda *_, **__: None, [watch])
    return [float(str(step["loss"])) for step in log]


def _trl(folder: Path, watch: Any, *, grouped: bool) -> list[float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")
    data = [{"input_ids": ids, "completion_mask": [0] * prompt + [1] * (len(ids) - prompt)} for ids, prompt in rows()]
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length" if grouped else "random",
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names, task_type="CAUSAL_LM"),
        callbacks=[watch],
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def compared(folder: Path, repetitions: int) -> dict[str, Any]:
    """Every side `repetitions` times, in turn."""
    make_model(folder / "model")
    figures: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(repetitions):
        for side in SIDES:
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            (folder / "scratch").mkdir()
            (folder / "scratch" / "model").symlink_to(folder / "model")
            command = [sys.executable, "-m", "bench.trainer.training", "--side", side, "--folder", folder / "scratch"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            figures[side].append(json.loads(done.stdout.splitlines()[-1]))
    sides = {
        side: {name: statistics.median(figure[name] for figure in of_side) for name in of_side[0]}
        for side, of_side in figures.items()
    }
    ours = [figure["tokensPerCpuSecond"] for figure in figures["ours"]]
    for side, of_side in figures.items():
        ratios = [own / figure["tokensPerCpuSecond"] for own, figure in zip(ours, of_side, strict=True)]
        sides[side]["oursToThis"] = round(statistics.median(ratios), 3)
    return {
        "sides": sides,
        "repetitions": repetitions,
        "rows": ROWS,
        "tokens": sum(len(ids) for ids, _ in rows()),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }


def write(figures: dict[str, Any]) -> None:
    """The figures into the document and beside it."""
    lines = [
        "| | tokens per CPU second | tokens per second | ours ÷ this, by CPU | first loss | last loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, side in figures["sides"].items():
        values = f"{side['tokensPerCpuSecond']:,.0f} | {side['tokensPerSecond']:,.0f} | {side['oursToThis']:.2f}"
        lines.append(f"| {name} | {values} | {side['firstLoss']:.3f} | {side['lastLoss']:.3f} |")
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    lines.append(f"\nMedians of {figures['repetitions']} repetitions, {figures['tokens']:,} tokens each; {versions}.\n")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text[: text.index(MARK)] + MARK + "\n" + "\n".join(lines), encoding="utf-8")
    DOCUMENT.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(options.side, options.folder)))  # noqa: T201
        return
    if find_spec("trl") is None:
        parser.error("TRL is not installed: pip install 'evolution[bench]'")
    with tempfile.TemporaryDirectory() as folder:
        figures = compared(Path(folder), options.repeat)
    write(figures)
    print(json.dumps(figures, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
