"""The user's kubectl as a child process: contexts, auth plugins and proxies work as they do for the user."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from evolution.cluster.errors import NO_KUBECTL, ClusterError, ClusterExit, explain

Object = Mapping[str, Any]
"""A Kubernetes object as JSON."""
FIELD_MANAGER = "evolve"


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the options that say which cluster and namespace; empty ones are left to the kubeconfig."""

    context: str = ""
    namespace: str = ""
    kubeconfig: str = ""

    @property
    def chosen(self) -> bool:
        """Whether the user named a cluster or a namespace."""
        return bool(self.context or self.namespace or self.kubeconfig)

    def within(self, namespace: str) -> "Kubectl":
        """The same cluster, in `namespace`; in the same namespace if that is empty."""
        return replace(self, namespace=namespace or self.namespace)

    def current_namespace(self) -> str:
        """The namespace that commands go to: the option's, else the context's, else `default`."""
        found = self.namespace or self.run("config", "view", "--minify", "--output", "jsonpath={..namespace}")
        return found.strip() or "default"

    def run(self, *arguments: str, stdin: str = "") -> str:
        """kubectl to its end; its standard output.

        Raises:
            ClusterError: kubectl is missing, or it failed.
        """
        try:
            done = subprocess.run(
                self._command(arguments), input=stdin, capture_output=True, text=True, encoding="utf-8", check=False
            )
        except FileNotFoundError as error:
            raise ClusterError(NO_KUBECTL, ClusterExit.NO_KUBECTL) from error
        if done.returncode != 0:
            raise explain(done.stderr)
        sys.stderr.writelines(f"{line}\n" for line in done.stderr.splitlines() if line.startswith("Warning:"))
        return done.stdout

    def object(self, *arguments: str, stdin: str = "") -> Object:
        """The object that kubectl prints with `--output json`; see `run`."""
        found: Object = json.loads(self.run(*arguments, "--output", "json", stdin=stdin))
        return found

    @contextmanager
    def lines(self, *arguments: str) -> Iterator[Iterator[str]]:
        """What kubectl prints, line by line as it comes; kubectl ends with the context.

        Raises:
            ClusterError: kubectl is missing, or (from the iterator) it failed.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stderr:
            try:
                process = subprocess.Popen(
                    self._command(arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                )
            except FileNotFoundError as error:
                raise ClusterError(NO_KUBECTL, ClusterExit.NO_KUBECTL) from error

            def read() -> Iterator[str]:
                assert process.stdout is not None
                yield from process.stdout
                if process.wait() != 0:
                    stderr.seek(0)
                    raise explain(stderr.read())

            with process:
                try:
                    yield read()
                finally:
                    process.kill()

    @contextmanager
    def changes(self, *arguments: str) -> Iterator[Iterator[tuple[str, Object]]]:
        """`kubectl get … --watch`: (ADDED, MODIFIED or DELETED, object) as it comes, what is there first; see `lines`.

        The iterator ends when the server ends the watch, as it does now and then.
        """
        with self.lines("get", *arguments, "--watch", "--output-watch-events", "--output", "json") as lines:
            yield _events(lines)

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        chosen = {"--context": self.context, "--namespace": self.namespace, "--kubeconfig": self.kubeconfig}
        return ["kubectl", *(f"{option}={value}" for option, value in chosen.items() if value), *arguments]


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Object]]:
    """kubectl prints an event on a line of its own; were it indented, it would end with a later line."""
    gathered = ""
    for line in lines:
        gathered += line
        try:
            event = json.loads(gathered)
        except json.JSONDecodeError:
            continue
        gathered = ""
        yield event["type"], event["object"]
