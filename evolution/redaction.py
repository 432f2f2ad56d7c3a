"""What people read and others keep, such as logs and last words, without the credentials of this process.

No message of ours holds any. This is for what others say: a server that repeats what it was sent, a traceback.
"""

import os
import re
from collections.abc import Iterable
from typing import TextIO

SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
)
"""Environment variables whose values nobody needs to see."""
SHORTEST = 8
"""Characters; a shorter value is no secret, and may be part of any word."""
_SHAPES = (
    (re.compile(r"(X-Amz-(?:Signature|Security-Token|Credential)=)[^&\s\"'<>]+", re.IGNORECASE), r"\1…"),
    (re.compile(r"(WebIdentityToken=)[^&\s\"'<>]+"), r"\1…"),
    (re.compile(r"(Bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1…"),
    (re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s\"'<>@]+@", re.IGNORECASE), r"\1…@"),
)


def redacted(text: str) -> str:
    """`text` with … in place of credentials."""
    for name in SECRETS:
        value = os.environ.get(name, "").strip()
        if len(value) >= SHORTEST:
            text = text.replace(value, "…")
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


class RedactedStream:
    """A text stream for logs; what is written to it in one piece is redacted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding
        self.errors = stream.errors

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()
