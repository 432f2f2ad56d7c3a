"""Requests to the Hugging Face Hub that end, whatever the hub does."""

from functools import cache


@cache
def see_that_requests_end() -> None:
    """Give up requests that get no answer for HF_HUB_DOWNLOAD_TIMEOUT seconds, also those for which the hub's library
    has no limit: it lists the files of a commit that way.
    """
    import httpx2
    from huggingface_hub import constants, get_session, set_client_factory

    def limit(request: httpx2.Request) -> None:
        given = request.extensions.get("timeout", {})
        wait = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        request.extensions["timeout"] = {step: given.get(step) or wait for step in ("connect", "read", "write", "pool")}

    hooks = [*get_session().event_hooks["request"], limit]
    set_client_factory(lambda: httpx2.Client(event_hooks={"request": hooks}, follow_redirects=True, timeout=None))
