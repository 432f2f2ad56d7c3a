"""`python -m bench.trainer.generation`: tokens per second beside `model.generate`, one row at a time and in batches.

All write the same replies with the same draws, in one process and with one thread; seconds are of the CPU.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from small_run import QUICKSTART
from transformers import GenerationConfig, LogitsProcessorList, Qwen2Config, Qwen2ForCausalLM

from evolution_trainer.engine import Reply, read_reply
from evolution_trainer.model import ModelSession
from evolution_trainer.sampling import SeededSampling, stream
from evolution_trainer.transformers_engine import TransformersEngine

DOCUMENT = Path(__file__).parents[3] / "docs" / "benchmarks" / "trainer-generation.md"
BATCHES = (4, 8, 16, 32, 64)
MARK = "<!-- figures -->"


@dataclass(frozen=True)
class Workload:
    """Prompts for a model, and how replies to them are drawn."""

    name: str
    session: ModelSession
    prompts: list[list[int]]
    temperature: float
    max_tokens: int

    def ours(self) -> list[Reply]:
        return TransformersEngine(self.session, self.session.base).generate(
            self.prompts, range(len(self.prompts)), temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens
        )

    def generated(self, rows: int) -> list[Reply]:
        """By `model.generate`: batches of so many prompts of similar length, padded on the left."""
        order = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            written = self._batch([self.prompts[i] for i in batch], batch)
            replies.update((i, read_reply(self.session, row)) for i, row in zip(batch, written, strict=True))
        return [replies[i] for i in range(len(order))]

    def _batch(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[list[int]]:
        longest, pad = max(map(len, prompts)), self.session.pad_token
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        settings = GenerationConfig(
            max_new_tokens=self.max_tokens,
            do_sample=False,
            eos_token_id=self.session.end_tokens,
            pad_token_id=pad,
        )
        sampling = SeededSampling([stream(seed) for seed in seeds], self.temperature, 1.0)
        processors = LogitsProcessorList([sampling] if self.temperature else [])
        with torch.inference_mode():
            written = self.session.base.generate(
                input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=processors
            )
        return written[:, longest:].tolist()


def questions(session: ModelSession, count: int) -> Workload:
    """The quickstart's model asks three sampled questions about each of its documents."""
    prompts = [f"{text}\n\nAsk one question about this document." for text in _documents(count) for _ in range(3)]
    return Workload("demo, questions", session, [session.chat.prompt(prompt) for prompt in prompts], 1.0, 32)


def answers(session: ModelSession, count: int) -> Workload:
    """It answers three questions about each, greedily."""
    prompts = [
        f"{text}\n\nQuestion: For the {text.split(' ', 2)[1]}, what is the {asked}?\nAnswer from this document."
        for text in _documents(count)
        for asked in ("colour", "owner", "serial number")
    ]
    return Workload("demo, answers", session, [session.chat.prompt(prompt) for prompt in prompts], 0.0, 32)


def mid_size(folder: Path, count: int, *, max_tokens: int) -> Workload:
    """A random model: hidden 256, 4 layers, 8,192 tokens, of which 1 in 40 ends a reply, so that lengths differ as real
    ones do. Prompts of 100 to 260 tokens, no two of which begin alike.
    """
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=list(range(1999, 1999 + 8192 // 40)),
        pad_token_id=1997,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=1997)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((QUICKSTART / "model" / file).read_bytes())
    session = ModelSession(str(folder), folder / "cache")
    numbers = torch.Generator().manual_seed(0)
    lengths = torch.randint(100, 260, (count,), generator=numbers).tolist()
    prompts = [torch.randint(3000, 8192, (length,), generator=numbers).tolist() for length in lengths]
    return Workload("mid-size, sampled", session, prompts, 1.0, max_tokens)


def measure(workload: Workload, batches: Sequence[int]) -> dict[str, Any]:
    """Tokens per CPU second; ours is measured before and after the others, and the slower turn counts."""
    workload.session.base.eval()
    ways: list[tuple[str, Callable[[], list[Reply]]]] = [("ours", workload.ours)]
    ways += [(str(rows), partial(workload.generated, rows)) for rows in (1, *batches)]
    written: dict[str, list[Reply]] = {}
    speed: dict[str, float] = {}
    for way, write in (*ways, ways[0]):
        start = time.process_time()
        written[way] = write()
        found = sum(reply.tokens for reply in written[way]) / (time.process_time() - start)
        speed[way] = round(min(found, speed.get(way, found)), 1)
    best = max(batches, key=lambda rows: speed[str(rows)])
    figures = {
        "workload": workload.name,
        "prompts": len(workload.prompts),
        "tokens": sum(reply.tokens for reply in written["ours"]),
        "tokensPerSecond": speed,
        "bestBatch": best,
        "timesBatch1": round(speed["ours"] / speed["1"], 2),
        "timesBestBatch": round(speed["ours"] / speed[str(best)], 2),
        "equalReplies": {way: replies == written["ours"] for way, replies in written.items()},
    }
    print(json.dumps(figures), flush=True)  # noqa: T201
    return figures


def table(figures: dict[str, Any]) -> str:
    heads = ["workload", "prompts", "tokens", "batch 1", "best batch", "ours", "× batch 1", "× best batch", "replies"]
    rows = [heads, ["---"] * len(heads)]
    for one in figures["workloads"]:
        speed, best = one["tokensPerSecond"], one["bestBatch"]
        equal = "equal" if all(one["equalReplies"].values()) else "differ"
        cells = [
            one["workload"],
            one["prompts"],
            one["tokens"],
            f"{speed['1']:.0f}",
            f"{speed[str(best)]:.0f} ({best})",
        ]
        rows.append(
            [*map(str, cells), f"{speed['ours']:.0f}", str(one["timesBatch1"]), str(one["timesBestBatch"]), equal]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.trainer.generation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to see that it works; figures are not kept")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    batches = (4,) if quick else BATCHES
    with tempfile.TemporaryDirectory() as folder:
        demo = ModelSession(str(QUICKSTART / "model"), Path(folder) / "cache")
        (Path(folder) / "model").mkdir()
        workloads = [
            questions(demo, 3 if quick else 20),
            answers(demo, 3 if quick else 20),
            mid_size(Path(folder) / "model", 4 if quick else 32, max_tokens=16 if quick else 64),
        ]
        figures = {
            "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "workloads": [measure(workload, batches) for workload in workloads],
        }
    if not quick:
        DOCUMENT.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        before, _, after = DOCUMENT.read_text(encoding="utf-8").split(MARK)
        DOCUMENT.write_text(f"{before}{MARK}\n\n{table(figures)}\n\n{MARK}{after}", encoding="utf-8")


def _documents(count: int) -> list[str]:
    return [file.read_text(encoding="utf-8").strip() for file in sorted((QUICKSTART / "documents").iterdir())[:count]]


if __name__ == "__main__":
    main()
