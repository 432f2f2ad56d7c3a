"""What errors of huggingface_hub mean to people, and whether trying again may help."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from evolution.api.locations import HubLocation
from evolution.store.base import StoreError, StoreRefused, StoreUnavailable
from evolution.store.source_files import SourceUnusable

_BUSY = (408, 429, 500, 502, 503, 504)


@contextmanager
def explained(uri: str, location: HubLocation) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors for people.

    Raises:
        SourceUnusable: nothing there, or not for this user.
        StoreUnavailable: no network, or a hub that is overloaded.
        StoreRefused: a token that is not accepted, an answer that no hub gives, a full disk.
    """
    import httpx2

    try:
        yield
    except (SourceUnusable, StoreError):
        raise
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise _explained(error, uri, location) from error


def _explained(error: Exception, uri: str, location: HubLocation) -> Exception:
    import httpx2
    from huggingface_hub import constants, errors

    place = f"{_hub()}/{'datasets/' if location.kind == 'dataset' else ''}{location.name}"
    match error:
        case errors.GatedRepoError():
            return SourceUnusable(
                f"{uri}: is open only to those whom its owners let in: ask at {place}, and set HF_TOKEN to a token of "
                "that account (on a cluster in the runtime's env)"
            )
        case errors.RepositoryNotFoundError():
            token = (
                "HF_TOKEN does not open it"
                if os.environ.get("HF_TOKEN")
                else "no HF_TOKEN is set, which a private one needs"
            )
            return SourceUnusable(f"{uri}: there is no {location.kind} at {place}, or it is private: {token}")
        case errors.RevisionNotFoundError():
            return SourceUnusable(
                f"{uri}: {place} has no commit {location.revision}; git ls-remote {place} HEAD prints its newest"
            )
        case errors.DisabledRepoError():
            return SourceUnusable(f"{uri}: access to it is disabled on the hub; see {place}")
        case errors.HfHubHTTPError():
            return _by_status(error.response.status_code, uri)
        case errors.LocalEntryNotFoundError():
            return _not_here(error, uri, location)
        case httpx2.HTTPError():
            return StoreUnavailable(f"{uri}: {_hub()} does not answer ({error or type(error).__name__})")
        case OSError() if error.errno == errno.ENOSPC:
            return StoreRefused(f"{uri}: the disk is full at {constants.HF_HUB_CACHE}; make room, or set HF_HUB_CACHE")
        case OSError() if error.errno is not None:
            return StoreRefused(f"{uri}: cannot be written to {constants.HF_HUB_CACHE}: {error}")
        case OSError():  # what came has not the size that was announced
            return StoreUnavailable(f"{uri}: {' '.join(str(error).split())}")
    return SourceUnusable(f"{uri}: {error}")


def _not_here(error: Exception, uri: str, location: HubLocation) -> Exception:
    from huggingface_hub import constants, errors

    cause = error.__cause__
    if isinstance(cause, errors.OfflineModeIsEnabled) or constants.is_offline_mode():
        kind = " --repo-type dataset" if location.kind == "dataset" else ""
        return SourceUnusable(
            f"{uri}: is not whole in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids the network; unset it, or "
            f"fetch it where there is one: hf download {location.name}{kind} --revision {location.revision}"
        )
    if isinstance(cause, errors.HfHubHTTPError):
        return _by_status(cause.response.status_code, uri)
    if isinstance(cause, errors.FileMetadataError):
        return StoreRefused(f"{uri}: {_hub()} answers as no hub does; see HF_ENDPOINT ({cause})")
    return StoreUnavailable(f"{uri}: {_hub()} does not answer ({cause or error})")


def _hub() -> str:
    """The hub's address without the user and password of a mirror."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _by_status(status: int, uri: str) -> Exception:
    if status in _BUSY:
        return StoreUnavailable(f"{uri}: {_hub()} is overloaded or not ready (HTTP {status})")
    if status in (401, 403):
        return StoreRefused(f"{uri}: {_hub()} does not accept the token in HF_TOKEN (HTTP {status})")
    return StoreRefused(f"{uri}: {_hub()} answers as no hub does (HTTP {status}); see HF_ENDPOINT")
