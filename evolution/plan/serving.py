"""Which trained models which engine can write with."""

from collections.abc import Mapping

from evolution.api.run import Variant
from evolution.api.runtime import EngineName

SERVED: Mapping[EngineName, tuple[Variant, ...]] = {
    "Transformers": ("LoRA", "RSLoRA", "DoRA", "Full"),
    "VLLM": ("LoRA", "RSLoRA"),
    "OpenAI": ("LoRA", "RSLoRA"),
}


def unservable(variant: Variant, engine: EngineName) -> str | None:
    """Why what `variant` trains cannot be used by `engine`, and what to do; None if it can."""
    if variant in SERVED[engine]:
        return None
    able = " or ".join(name for name, variants in SERVED.items() if variant in variants)
    return (
        f"training.variant is {variant}, which the runtime's engine {engine} cannot serve; set training.variant to "
        f"{' or '.join(SERVED[engine])}, or use a runtime with engine {able}"
    )
