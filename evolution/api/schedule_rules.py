"""CEL rules of the EvolutionSchedule: its own, and those of runs for its template."""

from collections.abc import Mapping, Sequence

from evolution.api.crd_rules import RUN_RULES, Rule, text
from evolution.api.schedule import CRON_FIELDS, FIVE_FIELDS, LEAST_INTERVAL, NAME_LENGTH, NEVER_STARTS, ZONE_REMEDY

_PARTS = "self.split(' ')"


def _said_of(value: str, remedy: str) -> str:
    """The value in quotes, then what is wrong with it."""
    return f"""'"' + {value} + '"' + {text(remedy)}"""


def _cron_field(number: int, name: str, right: str, pattern: str) -> Rule:
    part = f"{_PARTS}[{number}]"
    return Rule(
        f"{_PARTS}.size() != {len(CRON_FIELDS)} || {part}.matches({text(pattern)})",
        _said_of(part, f" is no {name}; give {right}, or a range, list or step of them"),
    )


SCHEDULE_RULES: Mapping[str, Sequence[Rule]] = {
    "": (
        Rule(
            f"self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{{0,{NAME_LENGTH - 2}}}[a-z0-9])?$')",
            "'metadata.name: ' + "
            + _said_of(
                "self.metadata.name",
                f" cannot be the name: names of runs are built from it; use at most {NAME_LENGTH} lower-case letters, "
                "digits and '-', starting and ending with a letter or digit",
            ),
        ),
    ),
    "spec": (Rule("self.schedule != '' || has(self.onChange)", text(NEVER_STARTS), ".schedule"),),
    "spec.schedule": (
        Rule(
            f"self == '' || {_PARTS}.size() == {len(CRON_FIELDS)}",
            _said_of("self", f" has not cron's five fields; {FIVE_FIELDS}"),
        ),
        *(_cron_field(number, *field) for number, field in enumerate(CRON_FIELDS)),
    ),
    # The API server's own list of time zones decides: one that it does not know makes the rule fail to evaluate. A
    # distance from UTC, as +02:00, is a zone in CEL and nowhere else.
    "spec.timeZone": (
        Rule(
            "self != 'Local' && !self.contains(':') && timestamp('2026-01-01T12:00:00Z').getFullYear(self) == 2026",
            _said_of("self", f" is no time zone; {ZONE_REMEDY}"),
            remedy=ZONE_REMEDY,
        ),
    ),
    "spec.onChange.interval": (
        Rule(
            f"!self.matches('^[0-9hms]+$') || duration(self) >= duration('{LEAST_INTERVAL}')",
            _said_of("self", f" is too short; give {LEAST_INTERVAL} or more, such as 1h"),
        ),
    ),
    **{f"spec.runTemplate.{path}": rules for path, rules in RUN_RULES.items() if path},
}
"""By path of the field; empty for the object itself."""
