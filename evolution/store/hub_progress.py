"""How far a download from the Hugging Face Hub is."""

import threading
from typing import Any, Self

from evolution.store.source_files import PHASE, OnProgress, megabytes


def progress_bar(progress: OnProgress, there: int, size: int, files: int) -> type:
    """A stand-in for `tqdm` that tells `progress` instead of a terminal.

    Of `size` bytes in `files` files `there` were there before.
    """
    lock = threading.Lock()

    class Bar:
        """The hub's library makes three: files, bytes from the network, bytes on the disk."""

        def __init__(self, **settings: Any) -> None:
            self.n = settings.get("initial") or 0
            self.total = settings.get("total")
            self._bytes = settings.get("unit") == "B"
            self.format_dict: dict[str, Any] = {}

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, more: float | None = 1) -> None:
            with lock:
                self.n += more or 0
                if self._bytes:
                    done = min(size, there + int(self.n))
                    progress(PHASE, megabytes(done), megabytes(size), f"{files} files")

        def nothing(self, *_: object, **__: object) -> None:
            """A terminal would be drawn anew."""

        refresh = close = set_description = set_description_str = set_postfix_str = nothing

    return Bar
