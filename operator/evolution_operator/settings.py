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
    metrics_port: int | None = None
    """Port of /metrics; None has none."""
    metrics_certificate: str = ""
    """File with the certificate for HTTPS there; empty is HTTP."""
    metrics_key: str = ""
    """File with its private key."""
    metrics_token_file: str = ""
    """File with the token that has to be sent; empty asks for none."""
    metrics_per_run: bool = True
    """Whether runs are told one by one."""
    metrics_runs: int = 200
    """So many of them at most."""
    metrics_hours: float = 24.0
    """Hours that a run is told after its end."""
    gpu_prices: tuple[tuple[str, float], ...] = ()
    """Price of an hour of a GPU by its class."""
    currency: str = "USD"
    """Of the prices."""


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
    _add_metrics(parser)
    given = parser.parse_args(arguments)
    if bool(given.metrics_certificate) != bool(given.metrics_key):
        raise WrongSettings("--metrics-certificate and --metrics-key: give both, or none of them")

    listed: list[str] = given.namespace or environment.get("EVOLUTION_NAMESPACES", "").split(",")
    port = given.liveness_port or environment.get("EVOLUTION_LIVENESS_PORT", "")
    metrics_port = given.metrics_port or environment.get("EVOLUTION_METRICS_PORT", "")
    prices: list[str] = given.gpu_price or environment.get("EVOLUTION_GPU_PRICES", "").split(",")
    return Settings(
        store=_store(given.store or environment.get("EVOLUTION_STORE", "")),
        namespaces=_namespaces([name.strip() for name in listed if name.strip()]),
        s3_endpoint=environment.get("EVOLUTION_S3_ENDPOINT", ""),
        region=environment.get("AWS_REGION", ""),
        liveness_port=_port("--liveness-port", port) if port else None,
        resync_seconds=_seconds("--resync-seconds", given.resync_seconds),
        progress_seconds=_seconds("--progress-seconds", given.progress_seconds),
        log_format=given.log_format,
        metrics_port=_port("--metrics-port", metrics_port) if metrics_port else None,
        metrics_certificate=given.metrics_certificate,
        metrics_key=given.metrics_key,
        metrics_token_file=given.metrics_token_file,
        metrics_per_run=given.metrics_per_run == "true",
        metrics_runs=int(_number("--metrics-runs", given.metrics_runs, "runs", least=0, most=5000, whole=True)),
        metrics_hours=_number("--metrics-hours", given.metrics_hours, "hours", least=0, most=8760),
        gpu_prices=_prices([price.strip() for price in prices if price.strip()]),
        currency=given.currency,
    )


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-port", metavar="PORT", help="serve /metrics there (EVOLUTION_METRICS_PORT); none: no metrics"
    )
    parser.add_argument("--metrics-certificate", metavar="FILE", default="", help="serve them by HTTPS with this")
    parser.add_argument("--metrics-key", metavar="FILE", default="", help="private key of the certificate")
    parser.add_argument(
        "--metrics-token-file", metavar="FILE", default="", help="ask for the bearer token in this file"
    )
    parser.add_argument(
        "--metrics-per-run", choices=("true", "false"), default="true", help="tell of runs one by one: true"
    )
    parser.add_argument("--metrics-runs", metavar="N", default="200", help="of so many runs at most, the newest: 200")
    parser.add_argument("--metrics-hours", metavar="H", default="24", help="so many hours after a run's end: 24")
    parser.add_argument(
        "--gpu-price",
        action="append",
        metavar="CLASS=PRICE",
        help="price of a GPU's hour, repeatable (EVOLUTION_GPU_PRICES, as h100=2.5,l40s=0.8)",
    )
    parser.add_argument("--currency", metavar="CODE", default="USD", help="of the prices: USD")


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


def _port(flag: str, text: str) -> int:
    if text.isdigit() and 1 <= int(text) <= 65_535:
        return int(text)
    raise WrongSettings(f"{flag} {text!r}: not a port from 1 to 65535")


def _seconds(flag: str, text: str) -> float:
    return _number(flag, text, "seconds", least=0.1, most=86_400)


def _number(flag: str, text: str, unit: str, *, least: float, most: float, whole: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most or (whole and number != int(number)):
        raise WrongSettings(f"{flag} {text!r}: not a {'whole ' * whole}number of {unit} from {least:g} to {most:g}")
    return number


def _prices(given: Sequence[str]) -> tuple[tuple[str, float], ...]:
    prices: dict[str, float] = {}
    for text in given:
        name, _, number = (part.strip() for part in text.partition("="))
        if not name or not number:
            raise WrongSettings(f"--gpu-price {text!r}: not a class of GPUs and its price, as h100=2.5")
        prices[name] = _number("--gpu-price", number, f"what an hour of {name} costs", least=0, most=1_000_000)
    return tuple(prices.items())
