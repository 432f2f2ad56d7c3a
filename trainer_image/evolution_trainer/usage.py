"""What a stage takes and gives: tokens, memory, and how much of the GPUs' arithmetic it put to use."""

import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution.plan.manifest import Usage

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}
"""Dense bf16 operations per second by what a GPU's name contains (NVIDIA's data sheets); the first match counts."""
_RESET_PEAK = "5"


@dataclass
class Meter:
    """Counted up by the stage itself; memory is measured between `Meter()` and `read()`."""

    tokens_in: int = 0
    """Tokens that the model read: prompts, scored texts, training rows (once per pass)."""
    tokens_out: int = 0
    """Tokens that the model wrote."""
    flops: float = 0.0
    """Floating-point operations of the model, by the usual estimate from parameters and tokens."""

    def __post_init__(self) -> None:
        with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process so far
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        if (cuda := _cuda()) is not None:
            for gpu in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(gpu)

    def read(self, work: float, nodes: int = 1) -> Usage:
        """What was used, of which so many seconds were `work`, by workers on so many nodes; memory is this one's."""
        cuda = _cuda()
        gpus = range(cuda.device_count()) if cuda is not None else range(0)
        peak = sum(_peak_flops(cuda.get_device_name(gpu)) for gpu in gpus) if cuda is not None else 0.0
        return Usage(
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            peak_memory=_peak_memory(),
            peak_gpu_memory=max((cuda.max_memory_allocated(gpu) for gpu in gpus), default=0) if cuda else 0,
            flops=self.flops,
            mfu=round(self.flops / (peak * nodes * work), 4) if peak and work and self.flops else None,
        )


def together(parts: Iterable[Usage]) -> Usage:
    """Usage of a stage that several workers shared: sums, the highest peak, and no utilisation."""
    whole = Usage()
    for part in parts:
        whole = Usage(
            tokens_in=whole.tokens_in + part.tokens_in,
            tokens_out=whole.tokens_out + part.tokens_out,
            peak_memory=max(whole.peak_memory, part.peak_memory),
            peak_gpu_memory=max(whole.peak_gpu_memory, part.peak_gpu_memory),
            flops=whole.flops + part.flops,
        )
    return whole


def _cuda() -> Any | None:
    """torch.cuda, if this process has loaded torch and there is a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _peak_flops(name: str) -> float:
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), 0.0)


def _peak_memory() -> int:
    """Bytes of resident memory at most."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
