"""`python -m evolution_operator.tryout RUN.yaml`: have the cluster do a small run, and tell of it; for `helm test`.

The run gets a seed of its own each time: finished stages are adopted, and would try out nothing the second time.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from evolution_operator.gateway import RUNS, Body, Gateway, GatewayError, NoAccess, Unavailable

LOOK_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 when the run is complete, 1 when it failed, waits for a person or took too long."""
    parser = argparse.ArgumentParser(prog="evolution_operator.tryout", description=__doc__)
    parser.add_argument("file", type=Path, help="an EvolutionRun with name and namespace")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds that it may take: 600")
    given = parser.parse_args(arguments)
    body: Body = yaml.safe_load(given.file.read_text("utf-8"))
    body["spec"]["seed"] = random.randrange(2**31)
    try:
        return asyncio.run(_try_out(body, time.monotonic() + given.timeout))
    except (NoAccess, GatewayError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


async def _try_out(body: Body, deadline: float) -> int:
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    gateway = await Gateway.connect()
    try:
        await _remove(gateway, namespace, name, deadline)
        await gateway.create(RUNS, namespace, body)
        status, told = {}, ""
        while time.monotonic() < deadline:
            status = await _status(gateway, namespace, name)
            if (standing := f"{status.get('summary', 'not looked at yet')}, {_percent(status)} %") != told:
                sys.stdout.write(f"{namespace}/{name}: {standing}\n")
                sys.stdout.flush()
                told = standing
            if status.get("state") == "Complete":
                await _remove(gateway, namespace, name, deadline)
                return 0
            if status.get("state") == "Failed":
                break
            await asyncio.sleep(LOOK_SECONDS)
        _tell_why(namespace, name, status)
        return 1
    finally:
        await gateway.close()


async def _status(gateway: Gateway, namespace: str, name: str) -> Body:
    try:
        found = await gateway.get(RUNS, namespace, name)
    except Unavailable as error:
        sys.stderr.write(f"{error}\n")
        return {}
    return (found or {}).get("status") or {}


async def _remove(gateway: Gateway, namespace: str, name: str, deadline: float) -> None:
    while (left := await gateway.get(RUNS, namespace, name)) and time.monotonic() < deadline:
        await gateway.delete(RUNS, namespace, name, left["metadata"]["uid"])
        await asyncio.sleep(LOOK_SECONDS / 4)


def _percent(status: Body) -> int:
    percent: int = (status.get("progress") or {}).get("percent", 0)
    return percent


def _tell_why(namespace: str, name: str, status: Body) -> None:
    sys.stderr.write(f"{namespace}/{name} is not complete; it is kept, to be looked at. Its conditions:\n")
    for condition in status.get("conditions") or [{"type": "none", "message": "does an operator look after it?"}]:
        said = (str(condition.get(key, "")) for key in ("type", "status", "reason", "message"))
        sys.stderr.write(f"  {' '.join(filter(None, said))}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
