"""What happened in a run, in a sentence."""

from collections.abc import Mapping

from evolution.api.status import EvolutionRunStatus
from evolution.plan.graph import Graph

METRIC_NAMES = {"ExactMatch": "Exact match", "ROUGEL": "ROUGE-L", "CHRF": "chrF"}


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def headline(metric: str, means: Mapping[int, float], best: int | None, rounds_wanted: int, state: str) -> str:
    """A sentence on the scores of `metric`.

    `means` holds its score by round, 0 being the baseline; `best` is the round that the gate holds best.
    """
    name = metric_name(metric)
    if 0 not in means:
        return "The run failed before anything was measured" if state == "Failed" else "Nothing is measured yet"
    base, last = means[0], max(means)
    if last == 0:
        failed = "; the run failed in its first round" if state == "Failed" else ""
        return f"{name} is {base:.2f} before any training{failed}"
    rounds = f"{last} round{'s' if last > 1 else ''}"
    if state == "Failed":
        rounds += f", then round {last + 1} failed"
    elif state != "Complete":
        rounds = f"{last} of {rounds_wanted} rounds so far"
    if not best or best not in means:
        highest = max(mean for round_, mean in means.items() if round_ > 0)
        return f"{name} did not rise above the {base:.2f} it began with in {rounds}; the highest was {highest:.2f}"
    if best == last:
        return f"{name} {_moved(base, means[best])} in {rounds}; the best is round {best}"
    return (
        f"{name} {_moved(base, means[best])} in round {best}, the best of {rounds}; round {last} has {means[last]:.2f}"
    )


def _moved(before: float, after: float) -> str:
    if f"{before:.2f}" == f"{after:.2f}":
        return f"stayed at {before:.2f}"
    return f"{'rose' if after > before else 'fell'} from {before:.2f} to {after:.2f}"


def explanation(status: EvolutionRunStatus, graph: Graph) -> str:
    """Why the run ended, what holds it up, or what it is doing."""
    done = sum(stage.done for stage in graph.stages)
    progress = f"{done} of {len(graph.stages)} stages are done"
    for type_ in ("Failed", "Suspended", "Complete"):
        condition = status.condition(type_)
        if condition and condition.status == "True":
            message = condition.message or condition.reason
            if type_ == "Failed":
                message = f"failed in {message}"
            if type_ == "Complete":
                return _sentence(message.partition(";")[0])  # the best round is in the headline
            return f"{_sentence(message)} {_sentence(progress)}"
    doing = "; ".join(
        f"round {now.round} {now.stage}: {now.waiting_for or f'{now.percent} %'}" for now in status.current
    )
    return _sentence(f"{progress}; {doing}" if doing else progress)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
