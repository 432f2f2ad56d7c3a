"""What processes that train together tell each other besides gradients: as tensors, so that nothing is unpickled."""

from pathlib import Path

import torch
import torch.distributed as dist


def anywhere(*here: bool, device: torch.device) -> list[bool]:
    """Of each value, whether it is true in any process; as it is where one trains alone."""
    if not dist.is_initialized():
        return list(here)
    told = torch.tensor(here, dtype=torch.uint8, device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return [bool(value) for value in told.tolist()]


def collect_random_states(folder: Path, device: torch.device) -> None:
    """Put what every process has written of its random numbers into the first one's `folder`: those on other nodes
    have written it there.
    """
    rank = dist.get_rank()
    states = _of_all(_random_state(folder, rank).read_bytes(), device)
    if rank == 0:
        for other, state in enumerate(states):
            _random_state(folder, other).write_bytes(state)


def _random_state(folder: Path, rank: int) -> Path:
    return folder / f"rng_state_{rank}.pth"  # so named, and looked for, by transformers


def _of_all(data: bytes, device: torch.device) -> list[bytes]:
    """`data` of every process, by rank."""
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    lengths = [int(length) for length in sizes]
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mine = padded.to(device)
    parts = [torch.zeros_like(mine) for _ in lengths]
    dist.all_gather(parts, mine)
    return [bytes(part[:length].cpu().numpy()) for part, length in zip(parts, lengths, strict=True)]
