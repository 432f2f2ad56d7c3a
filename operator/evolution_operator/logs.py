"""Log lines of the operator: one JSON object each, or plain text."""

import json
import logging
import sys
from datetime import UTC, datetime

from evolution.redaction import RedactedStream
from evolution_operator.settings import LogFormat

FIELDS = ("namespace", "run", "round", "stage", "job")
"""What a record may carry as `extra`, and every line then says."""


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {field: value for field in FIELDS if (value := getattr(record, field, None)) is not None}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logs(form: LogFormat) -> None:
    """Write what the operator has to say to stderr, and of its libraries warnings only."""
    handler = logging.StreamHandler(RedactedStream(sys.stderr))
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else plain)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("evolution_operator").setLevel(logging.INFO)
