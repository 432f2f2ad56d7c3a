"""What a person is told when the cluster, or kubectl on the way to it, does not do what was asked."""

import re
from enum import IntEnum


class ClusterExit(IntEnum):
    """Exit codes of commands that talk to a cluster; 2 is a wrong option, as everywhere."""

    REFUSED = 1
    """The run failed, or the cluster refused for a reason that has no code of its own."""
    WRONG_OPTION = 2
    UNREACHABLE = 3
    NOT_PERMITTED = 4
    NOT_INSTALLED = 5
    NOT_FOUND = 6
    INVALID = 40
    """The cluster's own validation refuses the run, as `BAD_SPEC` of a worker."""
    NO_KUBECTL = 127


class ClusterError(Exception):
    """The cluster did not do what was asked; `str()` is for people."""

    def __init__(self, message: str, code: ClusterExit = ClusterExit.REFUSED) -> None:
        super().__init__(message)
        self.code = code


class NotFound(ClusterError):
    """There is no such object."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ClusterExit.NOT_FOUND)


class Unreachable(ClusterError):
    """No answer; worth a retry."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ClusterExit.UNREACHABLE)


NO_KUBECTL = "kubectl is not on the PATH; commands for a cluster use it (https://kubernetes.io/docs/tasks/tools)"
NOT_INSTALLED = (
    "this cluster does not know EvolutionRuns: is the operator installed? Its custom resource definitions are missing"
)

_not_installed = re.compile(
    r"""the\ server\ doesn't\ have\ a\ resource\ type\ "(\w*evolution\w*)"
    | no\ matches\ for\ kind\ "EvolutionRun"
    | the\ server\ could\ not\ find\ the\ requested\ resource""",
    re.VERBOSE,
)
_context = re.compile(r'context was not found for specified context: (.*)|context "(.*)" does not exist')
_not_found = re.compile(r'\(NotFound\): (\S+?)(?:\.\S+)? "([^"]+)" not found')
_forbidden = re.compile(r"\(Forbidden\): (?:.* is forbidden: )?(.*)", re.DOTALL)
_unreachable = re.compile(
    r"connection to the server .* was refused|Unable to connect to the server|i/o timeout|no such host"
    r"|connection refused|context deadline exceeded|ServiceUnavailable|Client\.Timeout|connection reset"
)
_unauthorized = re.compile(r"Unauthorized|must be logged in|getting credentials: |^(error: )?EOF$")
"""EOF is what kubectl says when it would have asked for a password."""
_no_kubeconfig = re.compile(r"error: (?:stat|open) (\S+): (.*)")
_bad_kubeconfig = re.compile(r"error loading config file|invalid configuration")
_conflict = re.compile(r"Apply failed with \d+ conflicts?: (.*?)(?:\nPlease review|\Z)", re.DOTALL)
_invalid = re.compile(r'The \w+ "[^"]*" is invalid:\s*(.*)|\(Invalid\): \S+ "[^"]*" is invalid: (.*)', re.DOTALL)
_klog = re.compile(r"^[EWI]\d{4} .*$\n?", re.MULTILINE)


def explain(stderr: str) -> ClusterError:
    """The error behind what kubectl said."""
    text = _klog.sub("", stderr).strip() or stderr.strip()
    if _not_installed.search(text):
        return ClusterError(NOT_INSTALLED, ClusterExit.NOT_INSTALLED)
    if found := _context.search(text):
        name = found[1] or found[2]
        return ClusterError(
            f"no context {name!r} in the kubeconfig; `kubectl config get-contexts` lists them",
            ClusterExit.WRONG_OPTION,
        )
    if found := _not_found.search(text):
        return NotFound(f"no {_singular(found[1])} {found[2]!r}")
    if found := _forbidden.search(text):
        return ClusterError(f"not permitted: {_one_line(found[1])}", ClusterExit.NOT_PERMITTED)
    if found := _no_kubeconfig.search(text):
        return ClusterError(f"the kubeconfig {found[1]} cannot be read: {found[2]}", ClusterExit.WRONG_OPTION)
    if _unauthorized.search(text):
        return ClusterError(f"the cluster does not accept the credentials: {_shorn(text)}", ClusterExit.NOT_PERMITTED)
    if found := _conflict.search(text):
        return ClusterError(
            f"somebody else has set a field of this run: {_one_line(found[1])}; --force takes such fields over"
        )
    if found := _invalid.search(text):
        return ClusterError(f"the cluster refuses the run: {_one_line(found[1] or found[2])}", ClusterExit.INVALID)
    if _bad_kubeconfig.search(text):
        return ClusterError(_shorn(text), ClusterExit.WRONG_OPTION)
    if _unreachable.search(text):
        return Unreachable(f"the cluster does not answer: {_shorn(text)}")
    return ClusterError(_shorn(text) or "kubectl failed without a word")


def _singular(resource: str) -> str:
    return {"evolutionruns": "run", "namespaces": "namespace", "pods": "pod", "jobs": "Job"}.get(resource, resource)


def _one_line(text: str) -> str:
    return "; ".join(line.strip(" *-") for line in text.splitlines() if line.strip(" *-"))


def _shorn(text: str) -> str:
    """kubectl's own words without its prefixes."""
    return re.sub(r"^(error: |Error from server \(?)", "", _one_line(text))
