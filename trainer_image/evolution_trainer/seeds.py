"""Seeds named by what they are for, so that a row's randomness depends on nothing but the row."""

from pydantic import JsonValue

from evolution.plan.stage import canonical_json, sha256


def seed(*parts: JsonValue) -> int:
    """A 63-bit seed for `parts`, such as run seed, round, purpose and row id."""
    return int(sha256(canonical_json(list(parts)))[:16], 16) >> 1
