"""The model card of an adapter: what it is, what it came from, and how to use it."""

from collections.abc import Mapping

from pydantic import JsonValue

from evolution.plan.stage import Kind, fingerprint


def model_card(
    round_: int, parameters: Mapping[str, JsonValue], inputs: Mapping[str, str], metrics: Mapping[str, JsonValue]
) -> str:
    """Markdown with the front matter that model hubs read. `inputs`: digest of every input of the training by name."""
    settings = "\n".join(f"| {name} | {value} |" for name, value in sorted(parameters.items()))
    lineage = "\n".join(f"| {name} | `{digest}` |" for name, digest in sorted(inputs.items()))
    numbers = "\n".join(f"| {name} | {value} |" for name, value in metrics.items())
    return f"""\
---
library_name: peft
pipeline_tag: text-generation
tags: [lora, self-evolution]
---
# Adapter of round {round_}

A LoRA adapter in PEFT format, trained on question-answer pairs that the model wrote itself about its owner's documents.

| training | |
|---|---|
{numbers}

| setting | |
|---|---|
{settings}

## Lineage

Training stage `{fingerprint(Kind.TRAIN, parameters, inputs)}`. SHA-256 of everything that it read:

| input | digest |
|---|---|
{lineage}

## Use

```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, "this folder")
```
"""
