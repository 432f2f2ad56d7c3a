"""Asking a model and its adapters the same question: a child process keeps the model loaded."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from evolution.local.places import StoredRun
from evolution.plan.conversation import Participants, Question, Reply
from evolution.plan.manifest import Record


class ConversationFailed(Exception):
    """The model cannot be asked; the message says why."""


@dataclass(frozen=True)
class Conversation:
    stdin: IO[bytes]
    stdout: IO[bytes]

    def ask(self, question: str) -> dict[str, str]:
        """Every participant's answer by name.

        Raises:
            ConversationFailed: the model cannot be read, or its process ended.
        """
        self.say(Question(question=question))
        line = self.stdout.readline()
        reply = Reply.model_validate_json(line) if line else Reply(error="the process with the model ended")
        if reply.error:
            raise ConversationFailed(reply.error)
        return reply.answers

    def say(self, record: Record) -> None:
        try:
            self.stdin.write(record.to_json() + b"\n")
            self.stdin.flush()
        except BrokenPipeError:
            pass  # what it had to say about its end is still to be read


@contextmanager
def converse(local: StoredRun, model_digest: str, adapters: Mapping[str, str | None]) -> Iterator[Conversation]:
    """A conversation with the run's base model under each of `adapters` (name → digest; None: bare)."""
    local.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "evolution_trainer.conversation"]
    with (
        local.log.open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        conversation = Conversation(process.stdin, process.stdout)
        conversation.say(
            Participants(
                store=local.artifacts.store.uri,
                model=local.run.spec.model.uri,
                model_digest=model_digest,
                adapters=dict(adapters),
                max_tokens=local.run.spec.evaluation.max_tokens,
            )
        )
        try:
            yield conversation
        finally:
            process.kill()
