"""The large libraries, imported as cheaply as they can be."""

import gc
import sys


def import_transformers() -> None:
    """Import torch and transformers' models, if that has not been done.

    Imports make a hundred thousand objects that stay: looking through them for garbage again and again costs a fifth
    of the time that a worker needs to start.
    """
    if "transformers.modeling_utils" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
        import transformers.modeling_utils  # noqa: F401
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
