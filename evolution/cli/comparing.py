"""A comparison as a person watches it: bars for what is being done, a line for every run that has ended."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from evolution.cli.bars import Bars
from evolution.compare.outcome import Key
from evolution.compare.stages import amount, seconds_left
from evolution.decide import Plan
from evolution.plan import worker
from evolution.plan.graph import Graph


class Comparing:
    """The `Audience` of every run of a comparison, the one at `now`."""

    def __init__(self, graphs: Mapping[Key, Graph], console: Console) -> None:
        self.now: Key = ("", 0)
        self._graphs = dict(graphs)
        self._console = console
        self._bars = Bars(console)

    def start(self) -> None:
        self._bars.start()

    def stop(self) -> None:
        self._bars.stop()

    def planned(self, plan: Plan) -> None:
        if plan.graph is not None:
            self._graphs[self.now] = plan.graph
        stages = amount(self._graphs.values())
        self._bars.whole(stages.done, stages.distinct, seconds_left(self._graphs.values()), run_name(self.now))

    def happened(self, event: worker.Event) -> None:
        self._bars.happened(event)

    def warned(self, message: str) -> None:
        self._bars.clear()
        self._console.print(f"[yellow]warning:[/] {run_name(self.now)}: {escape(message)}")

    def ended(self, message: str) -> None:
        self._bars.clear()
        self._console.print(f"{run_name(self.now)}: {message}", markup=False)


def run_name(key: Key) -> str:
    """`hard, seed 2`"""
    return f"{key[0]}, seed {key[1]}"
