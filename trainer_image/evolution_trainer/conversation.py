"""`python -m evolution_trainer.conversation`: the same question to a base model and its adapters.

Speaks `evolution.plan.conversation` on standard input and output: participants first, then question by question.
"""

import sys
from pathlib import Path

from evolution.plan.conversation import Participants, Question, Reply
from evolution.plan.order import Compute
from evolution.store.artifacts import ArtifactDamaged, Artifacts
from evolution.store.base import StoreError
from evolution.store.cache import cache_folder
from evolution.store.open import open_store
from evolution.store.sources import SourceUnusable
from evolution_trainer.channel import EventPipe
from evolution_trainer.engine import opened_engine
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession


def main() -> int:
    pipe = EventPipe()
    try:
        participants = Participants.model_validate_json(sys.stdin.readline())
        artifacts = Artifacts(open_store(participants.store), cache_folder())
        session = ModelSession(participants.model, cache_folder())
        session.expect(participants.model_digest)
        adapters = {
            name: artifacts.fetch_tree(digest) if digest else None for name, digest in participants.adapters.items()
        }
        for line in sys.stdin:
            question = Question.model_validate_json(line).question
            answers = {
                name: _answer(session, adapter, question, participants.max_tokens) for name, adapter in adapters.items()
            }
            pipe.emit(Reply(answers=answers))
    except (StageFailed, SourceUnusable, ArtifactDamaged, StoreError) as error:
        pipe.emit(Reply(error=str(error)))
        return 1
    return 0


def _answer(session: ModelSession, adapter: Path | None, question: str, max_tokens: int) -> str:
    with opened_engine(session, Compute(), adapter) as engine:
        prompt = session.chat.prompt(question)
        if not engine.fits(prompt):
            return f"(the question has {len(prompt)} tokens, the model's window {session.window})"
        return engine.generate([prompt], [0], temperature=0.0, top_p=1.0, max_tokens=max_tokens)[0].text


if __name__ == "__main__":
    sys.exit(main())
