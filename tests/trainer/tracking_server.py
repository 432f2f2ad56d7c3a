"""A stand-in for MLflow's tracking server."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILTER = re.compile(r"tags\.`(.+?)` = '(.+?)'(?: and attributes\.status = '(\w+)')?")


@dataclass
class TrackingServer:
    """What MLflow's REST API keeps, for one experiment."""

    url: str = ""
    experiments: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refuses: str = ""
    """Path that is answered with an error."""

    def answer(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        match path:
            case "experiments/search":
                wanted = message["filter"].removeprefix("name = ").strip("'")
                return {"experiments": [{"experiment_id": "7"}]} if wanted in self.experiments else {}
            case "experiments/create":
                self.experiments.append(message["name"])
                return {"experiment_id": "7"}
            case "runs/search":
                tag, value, status = FILTER.fullmatch(message["filter"]).groups()
                found = [run for run in self.runs if run["tags"].get(tag) == value and status in (None, run["status"])]
                assert message["order_by"] == ["attributes.start_time ASC"]
                return {"runs": [{"info": {"run_id": run["id"]}} for run in found[: message["max_results"]]]}
            case "runs/create":
                tags = {tag["key"]: tag["value"] for tag in message["tags"]}
                run = {"id": f"run{len(self.runs)}", "name": message["run_name"], "tags": tags}
                self.runs.append({**run, "status": "RUNNING", "params": {}, "metrics": []})
                return {"run": {"info": {"run_id": run["id"]}}}
            case "runs/log-batch":
                run = self.run(message["run_id"])
                run["params"] |= {each["key"]: each["value"] for each in message.get("params", [])}
                run["metrics"] += [(each["key"], each["step"], each["value"]) for each in message.get("metrics", [])]
            case "runs/update":
                self.run(message["run_id"])["status"] = message["status"]
            case _:
                raise AssertionError(path)
        return {}

    def named(self, name: str) -> dict[str, Any]:
        """The one run of that name."""
        [found] = [run for run in self.runs if run["name"] == name]
        return found

    def run(self, id_: str) -> dict[str, Any]:
        return next(run for run in self.runs if run["id"] == id_)


@contextmanager
def running_tracking_server() -> Iterator[TrackingServer]:
    kept = TrackingServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.removeprefix("/api/2.0/mlflow/")
            kept.asked.append(path)
            refused = path == kept.refuses
            body = b'{"message": "no room"}' if refused else json.dumps(kept.answer(path, message)).encode()
            self.send_response(507 if refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    kept.url = f"http://127.0.0.1:{http.server_port}"
    yield kept
    http.shutdown()
    thread.join()
    http.server_close()
