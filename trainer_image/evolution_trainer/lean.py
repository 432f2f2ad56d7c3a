"""torch and transformers without what a worker never uses: a compiler, symbolic algebra, tensors spread over processes.

Importing transformers' models pulls these in and with them most of the seconds that a worker needs to start. Here each
is stood in for by a module with the few names that are touched when nothing is compiled and nothing is distributed; any
other name gives the real module, which then takes the stand-in's place. So a wrong guess costs time, never a result.
"""

import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SHAPES = "torch.fx.experimental.symbolic_shapes"
OF_NUMBERS: Mapping[str, Callable[..., Any]] = {
    "expect_true": lambda condition: condition,
    "guard_or_false": lambda condition: condition,
    "guard_or_true": lambda condition: condition,
    "guard_size_oblivious": lambda condition: condition,
    "statically_known_true": lambda condition: condition,
    "has_guarding_hint": lambda _: True,
    "guarding_hint_or_throw": lambda size: size,
    "is_nested_int": lambda _: False,
    "sym_eq": lambda one, other: [*one] == [*other] if isinstance(one, list | tuple) else one == other,
    "sym_and": lambda *conditions: all(conditions),
    "sym_or": lambda *conditions: any(conditions),
}
"""What these functions of torch's symbolic shapes give for sizes that are numbers."""


class StandIn(ModuleType):
    """A module that gives way to the real one when it is asked for anything that it does not have."""

    def __init__(self, name: str, **names: Any) -> None:
        super().__init__(name)
        self.__dict__.update(names)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks around
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class Submodules:
    """Finds and loads submodules of modules that are stood in for, by bringing in the real ones."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if isinstance(sys.modules.get(name.rpartition(".")[0]), StandIn):
            return ModuleSpec(name, self)  # type: ignore[arg-type]  # typing asks for more than importing does
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _real(spec.name.rpartition(".")[0])
        return importlib.import_module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It ran when it was created."""


def import_transformers() -> None:
    """Import torch and transformers' models, both lean; without effect if the models are imported already."""
    if "transformers.modeling_utils" in sys.modules:
        return
    with _no_collection():
        import torch

        sys.meta_path.insert(0, Submodules())
        for stand_in in _stand_ins():
            _put(stand_in)
        with _not_distributed(torch):
            import transformers.modeling_utils  # noqa: F401


def _stand_ins() -> list[StandIn]:
    return [
        StandIn(
            "torch._dynamo",
            disable=_undecorated,
            allow_in_graph=_undecorated,
            assume_constant_result=_undecorated,
            forbid_in_graph=_undecorated,
            graph_break=lambda _message="": None,
        ),
        StandIn("torch._dynamo.eval_frame", OptimizedModule=_never("OptimizedModule")),
        StandIn(
            "torch._dynamo._trace_wrapped_higher_order_op",
            TransformGetItemToIndex=_later("torch._dynamo._trace_wrapped_higher_order_op", "TransformGetItemToIndex"),
        ),
        StandIn(
            "torch.nn.attention.flex_attention",
            _DEFAULT_SPARSE_BLOCK_SIZE=128,
            AuxRequest=_later("torch.nn.attention.flex_attention", "AuxRequest"),
            BlockMask=_never("BlockMask"),
            create_block_mask=_later("torch.nn.attention.flex_attention", "create_block_mask"),
            flex_attention=_later("torch.nn.attention.flex_attention", "flex_attention"),
        ),
        StandIn("torch.distributed.tensor", DTensor=_never("DTensor")),
        StandIn(SHAPES, **{name: _of_numbers(name, compute) for name, compute in OF_NUMBERS.items()}),
        StandIn("sympy", Basic=_never("Basic")),
    ]


def _put(stand_in: StandIn) -> None:
    """As importing does: in the table of modules, and as an attribute of its package."""
    if stand_in.__name__ not in sys.modules:
        package, _, name = stand_in.__name__.rpartition(".")
        sys.modules[stand_in.__name__] = stand_in
        if package:
            setattr(importlib.import_module(package), name, stand_in)


def _real(name: str) -> ModuleType:
    """The real module of that name; with it all others come back, since they import each other."""
    for other, module in list(sys.modules.items()):
        if isinstance(module, StandIn):
            del sys.modules[other]
    return importlib.import_module(name)


def _undecorated(function: Any = None, *_: object, **__: object) -> Any:
    """A decorator for the compiler's sake."""
    return function if function is not None else _undecorated


def _of_numbers(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, where there are numbers only; the real function where there are symbols."""

    def call(*values: Any, **named: Any) -> Any:
        known = compute if all(map(_is_number, values)) and not named else getattr(_real(SHAPES), name)
        return known(*values, **named)

    return call


def _is_number(value: Any) -> bool:
    return all(map(_is_number, value)) if isinstance(value, list | tuple) else isinstance(value, bool | int | float)


def _later(module: str, name: str) -> Callable[..., Any]:
    """A callable that is imported when it is called."""

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(_real(module), name)(*arguments, **named)

    return call


def _never(name: str) -> type:
    """A class for `isinstance`: nothing is one."""
    return type(name, (), {})


@contextmanager
def _not_distributed(torch: ModuleType) -> Iterator[None]:
    """transformers asks once, when it is imported, whether it may need tensors that are spread over processes."""
    distributed: Any = torch.distributed
    available = distributed.is_available
    distributed.is_available = lambda: False
    try:
        yield
    finally:
        distributed.is_available = available


@contextmanager
def _no_collection() -> Iterator[None]:
    """Imports make a hundred thousand objects that stay: looking through them for garbage is a waste."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
