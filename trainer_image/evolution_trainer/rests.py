"""Documents that gave nothing new rest: one round after the first miss, then 2, 4, 8, as long as they stay barren.

A row of `rests` is a document, its misses in a row, and the last round in which it rests.
"""

from evolution_trainer.rows import Row


def rests_in(rest: Row | None, round_: int) -> bool:
    return rest is not None and rest["until"] >= round_


def after(rest: Row | None, document: str, round_: int, *, gave: bool) -> Row | None:
    """What is noted of a document after the round, given what was noted before; None: nothing."""
    if rest is not None and rests_in(rest, round_):
        return rest
    if gave:
        return None
    misses = rest["misses"] + 1 if rest else 1
    return {"document": document, "misses": misses, "until": round_ + 2 ** (misses - 1)}
