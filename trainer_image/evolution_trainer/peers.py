"""Telling the loss of a process on another node from what goes wrong in this one.

Narrowly, since a worker that lost another is started again without being counted: a defect that were taken for it would
be tried for ever.
"""

import re

import torch.distributed as dist

_GLOO = re.compile(
    r"gloo/.*(closed by peer|reset by peer|broken pipe|connection refused|timed? ?out|no route to host|unreachable)",
    re.IGNORECASE | re.DOTALL,
)
_NCCL = re.compile(r"ncclRemoteError|communicator was aborted|timed? ?out", re.IGNORECASE)
_NCCL_HERE = re.compile(r"CUDA error|ncclUnhandledCudaError|ncclInvalid", re.IGNORECASE)
"""What aborts a communicator as well, and comes from this process."""


def peer_lost(error: BaseException) -> bool:
    """Whether another process has gone, or does not answer."""
    text = str(error)
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    if isinstance(error, dist.DistBackendError):
        return bool(_NCCL.search(text)) and not _NCCL_HERE.search(text)
    return isinstance(error, RuntimeError) and bool(_GLOO.search(text))


def in_short(error: BaseException) -> str:
    """What such an error says, without where in a library it comes from and what is added for all cases."""
    first = str(error).strip().split("\n")[0]
    return re.sub(r"^\[[^]]*]\s*", "", first).partition(". ")[0]
