"""What prompts have in common at their beginning, so that it is read once: mostly a document that is asked about."""

from collections.abc import Sequence


def families(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Runs of neighbours of which each begins with the same half as the first: their indices."""
    found: list[list[int]] = []
    for i, prompt in enumerate(prompts):
        half = (len(prompt) + 1) // 2
        if found and prompts[found[-1][0]][:half] == prompt[:half]:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def by_family(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Indices of all prompts: longest families first, and those of one family together."""
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    groups = [[order[i] for i in group] for group in families([prompts[i] for i in order])]
    groups.sort(key=lambda group: -max(len(prompts[i]) for i in group))
    return [i for group in groups for i in group]


def stems(prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens of each prompt to read apart, once for its family; at least one token is left of each.

    A prompt without a family is cut where its rest is as long as the longest rest, so that no rest is padded for it.
    """
    cuts = [0] * len(prompts)
    longest_rest = 0
    for group in groups:
        if len(group) > 1:
            members = [prompts[i] for i in group]
            differs = (n for n, tokens in enumerate(zip(*members, strict=False)) if len({*tokens}) > 1)
            stem = next(differs, min(map(len, members)) - 1)
            longest_rest = max(longest_rest, *(len(member) - stem for member in members))
            for i in group:
                cuts[i] = stem
    for group in groups:
        if len(group) == 1 and longest_rest:
            cuts[group[0]] = max(0, len(prompts[group[0]]) - longest_rest)
    return cuts
