"""The model card of what was trained: what it is, what it came from, and how to use it."""

from collections.abc import Mapping

from pydantic import JsonValue

from evolution.api.run import Quantization, Variant
from evolution.plan.stage import Kind, fingerprint

WHAT: Mapping[Variant, str] = {
    "LoRA": "A LoRA adapter in PEFT format",
    "RSLoRA": "A LoRA adapter with rank-stabilised scaling in PEFT format",
    "DoRA": "A DoRA adapter in PEFT format",
    "Full": "All weights of the model",
}
LOADED_WITH_PEFT = """
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, "this folder")
"""
LOADED_WHOLE = """
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("this folder")
"""


def model_card(
    round_: int,
    parameters: Mapping[str, JsonValue],
    inputs: Mapping[str, str],
    metrics: Mapping[str, JsonValue],
    *,
    variant: Variant,
    quantization: Quantization,
) -> str:
    """Markdown with the front matter that model hubs read. `inputs`: digest of every input of the training by name."""
    whole = variant == "Full"
    settings = {**parameters, "variant": variant, "quantization": quantization}
    on = ", on a base model in 4-bit NF4" if quantization == "NF4" else ""
    return f"""\
---
library_name: {"transformers" if whole else "peft"}
pipeline_tag: text-generation
tags: [{variant.lower()}, self-evolution]
---
# {"Weights" if whole else "Adapter"} of round {round_}

{WHAT[variant]}, trained{on} on question-answer pairs that the model wrote itself about its owner's documents.

| training | |
|---|---|
{_rows(metrics)}

| setting | |
|---|---|
{_rows(dict(sorted(settings.items())))}

## Lineage

Training stage `{fingerprint(Kind.TRAIN, parameters, inputs)}`. SHA-256 of everything that it read; `model` lists the
files of the base model:

| input | digest |
|---|---|
{_rows({name: f"`{digest}`" for name, digest in sorted(inputs.items())})}

## Use

```python{LOADED_WHOLE if whole else LOADED_WITH_PEFT}```
"""


def _rows(values: Mapping[str, JsonValue]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in values.items())
