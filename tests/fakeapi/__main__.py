"""`python -m fakeapi`: the fake API server as its own process, until SIGTERM. Prints one JSON line with its address."""

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from fakeapi.server import FakeApi, Pace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kubeconfig", type=Path, help="where to write a kubeconfig")
    for name, default in ((field, getattr(Pace(), field)) for field in Pace.__slots__):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, metavar="SECONDS")
    options = parser.parse_args()
    pace = Pace(**{field: getattr(options, field) for field in Pace.__slots__})
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with FakeApi(pace=pace, port=options.port) as api:
        if options.kubeconfig:
            api.write_kubeconfig(options.kubeconfig)
        sys.stdout.write(json.dumps({"url": api.url}) + "\n")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    main()
