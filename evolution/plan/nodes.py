"""Which trainings which number of nodes can share."""


def unshared(batch_size: int, nodes: int) -> str | None:
    """Why so many nodes cannot share a batch, and what to do; None if they can."""
    if batch_size % nodes == 0:
        return None
    return (
        f"training.batchSize is {batch_size}, which {nodes} nodes cannot share equally; make it a multiple of {nodes}, "
        f"such as {(batch_size // nodes + 1) * nodes}, or use a runtime with another number in stages.train.nodes"
    )
