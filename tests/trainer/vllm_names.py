"""vLLM's interfaces by name, as recorded from its release."""

import inspect
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

RECORDED: Mapping[str, Any] = json.loads((Path(__file__).parent / "vllm_signatures.json").read_bytes())


def signature(names: Sequence[str]) -> inspect.Signature:
    """Of `name`, `name=` (may be left out), `*` (from here on by name alone) and `**name`."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = []
    for name in names:
        if name == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
        elif name.startswith("**"):
            parameters.append(inspect.Parameter(name[2:], inspect.Parameter.VAR_KEYWORD))
        else:
            default = None if name.endswith("=") else inspect.Parameter.empty
            parameters.append(inspect.Parameter(name.rstrip("="), kind, default=default))
    # Recorded classes may have what must be given after what may be left out; such are given by name.
    needed_late = any(
        later.default is inspect.Parameter.empty and earlier.default is not inspect.Parameter.empty
        for earlier, later in pairwise(parameters)
        if later.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    )
    if needed_late:
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    return inspect.Signature(parameters)


def check_fields(owner: str, given: Mapping[str, Any]) -> None:
    """See that `owner` can be made of what is given by name.

    Raises:
        TypeError: a name that it does not have, or that is missing.
    """
    signature(["*", *RECORDED["fields"][owner]]).bind(**given)
