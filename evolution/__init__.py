"""Evolution: a language model trains itself on its owner's documents, round after round (arXiv 2408.12247)."""

__version__ = "0.1.0"
