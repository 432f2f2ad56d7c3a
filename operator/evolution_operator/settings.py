"""What the operator is told when it starts: by flags, else by the environment."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from evolution.store.base import StoreError
from evolution.store.open import open_store

LogFormat = Literal["json", "plain"]

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class WrongSettings(Exception):
    """One line: which setting, its value, and what would be right."""


@dataclass(frozen=True, slots=True)
class Settings:
    store: str
    """Store of the installation: s3://bucket/prefix or file:///folder; every namespace has a prefix in it."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to look after; none is all."""
    s3_endpoint: str = ""
    """Endpoint of the S3 server, for workers as for the operator; empty is Amazon's."""
    region: str = ""
    """Region of the S3 server."""
    liveness_port: int | None = None
    """Port of the liveness endpoint /healthz; None has none."""
    resync_seconds: float = 120.0
    """Pause between two lists of everything."""
    progress_seconds: float = 15.0
    """Pause between two looks at the progress of running stages."""
    log_format: LogFormat = "json"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongSettings(message)


def read_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """
    Raises:
        WrongSettings: a setting is missing or makes no sense.
        SystemExit: after `--help`.
    """
    parser = _Parser(prog="evolution-operator", description="Makes EvolutionRuns true on a Kubernetes cluster.")
    parser.add_argument(
        "--namespace",
        action="append",
        metavar="NS",
        help="namespace to look after, repeatable; none: the whole cluster (EVOLUTION_NAMESPACES, comma-separated)",
    )
    parser.add_argument("--store", metavar="URI", help="s3://bucket/prefix or file:///folder (EVOLUTION_STORE)")
    parser.add_argument(
        "--liveness-port", metavar="PORT", help="serve /healthz there (EVOLUTION_LIVENESS_PORT); none: no endpoint"
    )
    parser.add_argument("--resync-seconds", metavar="S", default="120", help="pause between lists of everything: 120")
    parser.add_argument("--progress-seconds", metavar="S", default="15", help="pause between looks at progress: 15")
    parser.add_argument("--log-format", choices=("json", "plain"), default="json", help="json")
    given = parser.parse_args(arguments)

    listed: list[str] = given.namespace or environment.get("EVOLUTION_NAMESPACES", "").split(",")
    port = given.liveness_port or environment.get("EVOLUTION_LIVENESS_PORT", "")
    return Settings(
        store=_store(given.store or environment.get("EVOLUTION_STORE", "")),
        namespaces=_namespaces([name.strip() for name in listed if name.strip()]),
        s3_endpoint=environment.get("EVOLUTION_S3_ENDPOINT", ""),
        region=environment.get("AWS_REGION", ""),
        liveness_port=_port(port) if port else None,
        resync_seconds=_seconds("--resync-seconds", given.resync_seconds),
        progress_seconds=_seconds("--progress-seconds", given.progress_seconds),
        log_format=given.log_format,
    )


def _store(uri: str) -> str:
    if not uri:
        raise WrongSettings("no store: set --store or EVOLUTION_STORE to s3://bucket/prefix or file:///folder")
    if not uri.startswith(("s3://", "file://")):
        raise WrongSettings(f"--store {uri!r}: not s3://bucket/prefix or file:///folder")
    try:
        open_store(uri)
    except (StoreError, ValueError) as error:
        raise WrongSettings(f"--store: {error}") from error
    return uri.rstrip("/")


def _namespaces(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if not _NAMESPACE.fullmatch(name):
            raise WrongSettings(f"--namespace {name!r}: not a namespace's name (lower-case letters, digits and '-')")
    return tuple(dict.fromkeys(names))


def _port(text: str) -> int:
    if text.isdigit() and 1 <= int(text) <= 65_535:
        return int(text)
    raise WrongSettings(f"--liveness-port {text!r}: not a port from 1 to 65535")


def _seconds(flag: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise WrongSettings(f"{flag} {text!r}: not a number of seconds from 0.1 to 86400")
    return seconds
