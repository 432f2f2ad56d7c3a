"""Presets: the values of what a run file leaves out.

`Default` is what we would choose today; `Reference` is the published Self-Evolution code
(github.com/Zero-Pointer/Self-Evolution), including behaviour that changes numbers (`docs/run-file.md` lists it).
A preset is merged under the author's spec, so the fields named here carry no default of their own.
"""

from collections.abc import Mapping
from typing import Any

from evolution.api.run import Preset

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "Default": {
        "documents": {"maxTokens": 1536},
        "evaluation": {"metrics": ["ROUGEL", "BLEU"], "maxTokens": 512},
        "generation": {
            "writer": "Adapter",
            "questionsPerDocument": 1,
            "temperature": 0.5,
            "answerTemperature": 0.0,
            "topP": 0.95,
            "maxTokens": 1024,
        },
        "selection": {"strategy": "Hard", "size": 2000, "maxIFD": 1.0},
        "training": {
            "rank": 16,
            "alpha": 32,
            "dropout": 0.0,
            "targetModules": [],
            "layers": [],
            "learningRate": 1e-4,
            "warmupRatio": 0.1,
            "epochs": 1,
            "maxSteps": 0,
            "batchSize": 16,
            "maxTokens": 1024,
            "initFrom": "Previous",
        },
        "gate": {"minDelta": 0.002, "patience": 2, "onRegression": "Continue"},
    },
    "Reference": {
        "documents": {"maxTokens": 2048},
        "evaluation": {"metrics": ["ReferenceROUGE", "ReferenceBLEU"], "maxTokens": 512},
        "generation": {
            "writer": "Adapter",
            "questionsPerDocument": 1,
            "temperature": 0.5,
            "answerTemperature": 0.5,
            "topP": 0.95,
            "maxTokens": 2048,
        },
        "selection": {"strategy": "Hard", "size": 2000, "maxIFD": None},
        "training": {
            "rank": 8,
            "alpha": 16,
            "dropout": 0.0,
            "targetModules": [],
            "layers": [],
            "learningRate": 1e-6,
            "warmupRatio": 0.0,
            "epochs": 1,
            "maxSteps": 0,
            "batchSize": 16,
            "maxTokens": 1024,
            "initFrom": "Previous",
        },
        "gate": {"minDelta": 0.0, "patience": 0, "onRegression": "Continue"},
    },
}


def under(preset: Mapping[str, Any], author: Mapping[str, Any]) -> dict[str, Any]:
    """The author's mapping, completed from `preset`; mappings merge field by field, all else is the author's."""
    merged = dict(author)
    for key, value in preset.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(value, Mapping) and isinstance(merged[key], Mapping):
            merged[key] = under(value, merged[key])
    return merged
