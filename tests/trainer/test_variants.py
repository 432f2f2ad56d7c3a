"""LoRA, rank-stabilised LoRA, DoRA and all weights: trained, written with, gone on from, and off again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from stages import TRAIN, Bench, Done, pair
from transformers import AutoModelForCausalLM

from evolution.plan.order import Compute
from evolution.plan.stage import canonical_json, sha256
from evolution_trainer import model_files, train
from evolution_trainer.engine import opened_engine
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession

VARIANTS = ("LoRA", "RSLoRA", "DoRA", "Full")
QUICK: Mapping[str, Any] = {**TRAIN, "learningRate": 0.01, "length": {"steps": 4}}
QUESTION = "What is the number of machine seven?"
WRITE = """
import sys
from pathlib import Path
from evolution.plan.order import Compute
from evolution_trainer.engine import opened_engine
from evolution_trainer.model import ModelSession
session = ModelSession(sys.argv[1], Path(sys.argv[2]))
for adapter in sys.argv[3:]:
    with opened_engine(session, Compute(), Path(adapter)) as engine:
        [reply] = engine.generate(
            [session.chat.prompt("What is the number of machine seven?")], [1], temperature=0, top_p=1, max_tokens=12
        )
    print(ascii(reply.text))
"""


def trained(bench: Bench, variant: str, **changes: Any) -> Done:
    return bench.do(train, {**QUICK, "variant": variant, **changes}, pairs=bench.put(map(pair, range(8))))


def folder(done: Done) -> Path:
    return done.result.outputs["adapter"].path


def logits(session: ModelSession, adapter: Path | None = None) -> torch.Tensor:
    ids = torch.tensor([session.chat.prompt(QUESTION)])
    with session.adapted(adapter) as model, torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
        return found


def written(session: ModelSession, adapter: Path) -> str:
    with opened_engine(session, Compute(), adapter) as engine:
        [reply] = engine.generate([session.chat.prompt(QUESTION)], [1], temperature=0, top_p=1, max_tokens=12)
        return reply.text


@pytest.fixture(scope="module")
def each(tmp_path_factory: pytest.TempPathFactory, session: ModelSession) -> dict[str, Done]:
    """The same short training of every variant."""
    bench = Bench(tmp_path_factory.mktemp("variants"), session)
    return {variant: trained(bench, variant) for variant in VARIANTS}


@pytest.fixture
def tied(tiny_model: Path, tmp_path: Path) -> ModelSession:
    """The model with one matrix for what goes in and what comes out."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    shutil.copytree(tiny_model, tmp_path / "tied", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(tmp_path / "tied")
    return ModelSession(str(tmp_path / "tied"), tmp_path / "cache")


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_trainings_give_the_same_bytes_and_leave_the_base_as_it_was(
    bench: Bench, session: ModelSession, each: Mapping[str, Done], variant: str
) -> None:
    before = logits(session)
    again = trained(bench, variant)
    assert again.digest("adapter") == each[variant].digest("adapter")
    assert not torch.equal(logits(session, folder(again)), before)
    assert torch.equal(logits(session), before)
    assert not any(p.requires_grad or p.grad is not None for p in session.base.parameters())


def test_variants_learn_different_things(session: ModelSession, each: Mapping[str, Done]) -> None:
    answers = [logits(session, folder(done)) for done in each.values()]
    assert not any(torch.equal(a, b) for i, a in enumerate(answers) for b in answers[:i])


@pytest.mark.slow
def test_another_process_writes_the_same_with_them(
    session: ModelSession, each: Mapping[str, Done], tiny_model: Path, tmp_path: Path
) -> None:
    arguments = [str(tiny_model), str(tmp_path), *(str(folder(done)) for done in each.values())]
    done = subprocess.run([sys.executable, "-c", WRITE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [ascii(written(session, folder(done))) for done in each.values()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_trained_can_be_gone_on_with(bench: Bench, each: Mapping[str, Done], variant: str) -> None:
    before = each[variant]
    adapter = bench.artifacts.put_tree(folder(before)).digest
    done = bench.do(train, {**QUICK, "variant": variant}, pairs=bench.put(map(pair, range(8))), adapter=adapter)
    assert done.metrics["firstLoss"] < before.metrics["firstLoss"]
    assert done.digest("adapter") != before.digest("adapter")


@pytest.mark.parametrize(
    ("variant", "other"), [("LoRA", "DoRA"), ("RSLoRA", "LoRA"), ("Full", "LoRA"), ("LoRA", "Full")]
)
def test_another_variant_than_that_of_the_adapter_to_continue_is_named_with_both(
    bench: Bench, each: Mapping[str, Done], variant: str, other: str
) -> None:
    adapter = bench.artifacts.put_tree(folder(each[other])).digest
    with pytest.raises(StageFailed) as failure:
        bench.do(train, {**QUICK, "variant": variant}, pairs=bench.put([pair(1)]), adapter=adapter)
    assert (failure.value.reason, failure.value.code) == ("AdapterDiffers", 40)
    assert f"training.variant is {variant}, but the adapter to continue has {other}" in str(failure.value)


def test_plain_peft_loads_rank_stabilised_and_decomposed_adapters(
    session: ModelSession, each: Mapping[str, Done], tiny_model: Path
) -> None:
    for variant in ("RSLoRA", "DoRA"):
        base = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="sdpa")
        model = PeftModel.from_pretrained(base, folder(each[variant])).eval()
        with torch.no_grad():
            found = model(input_ids=torch.tensor([session.chat.prompt(QUESTION)])).logits
        assert torch.equal(found, logits(session, folder(each[variant])))


def test_full_weights_are_a_whole_model_with_a_note_that_names_the_base(bench: Bench, tiny_model: Path) -> None:
    bench.session = ModelSession(str(tiny_model), bench.folder / "models")
    digest = sha256(canonical_json(model_files.listing(tiny_model)))
    bench.session.expect(digest)
    weights = folder(trained(bench, "Full"))
    assert json.loads((weights / "full_weights.json").read_bytes()) == {"variant": "Full", "base": digest}
    assert {p.name for p in weights.iterdir()} == {p.name for p in tiny_model.iterdir()} | {"full_weights.json"}
    moved, base = (load_file(where / "model.safetensors") for where in (weights, tiny_model))
    assert {name for name in base if not torch.equal(base[name], moved[name])} == {*base} == {*moved}
    assert torch.equal(logits(ModelSession(str(weights), bench.folder)), logits(bench.session, weights))


def test_tied_embeddings_are_trained_and_stored_once(tied: ModelSession, tmp_path: Path) -> None:
    before, attributes = logits(tied), set(vars(tied.base))
    weights = folder(trained(Bench(tmp_path, tied), "Full"))
    assert "lm_head.weight" not in load_file(weights / "model.safetensors")
    assert not torch.equal(logits(tied, weights), before)
    assert torch.equal(logits(tied), before)
    assert tied.base.lm_head.weight is tied.base.model.embed_tokens.weight
    assert set(vars(tied.base)) == attributes, "a trainer has left something on the base model"


def test_full_weights_of_another_model_do_not_fit(
    session: ModelSession, each: Mapping[str, Done], tmp_path: Path
) -> None:
    shutil.copytree(folder(each["Full"]), tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] = torch.zeros(32, 96)
    save_file(weights, tmp_path / "other" / "model.safetensors")
    before = logits(session)
    with pytest.raises(StageFailed) as failure, session.adapted(tmp_path / "other"):
        pass
    assert failure.value.reason == "AdapterDoesNotFit"
    assert "model.layers.1.mlp.down_proj.weight: the trained weights have shape [32, 96]" in str(failure.value)
    assert "the model needs [32, 64]" in str(failure.value)
    assert torch.equal(logits(session), before)


@pytest.mark.parametrize("variant", ["DoRA", "Full"])
def test_what_was_trained_before_is_a_start_for_another_run(
    session: ModelSession, each: Mapping[str, Done], tiny_model: Path, tmp_path: Path, variant: str
) -> None:
    model_files.prepare_adapter(folder(each[variant]), tiny_model, tmp_path / "prepared")
    assert {p.name for p in (tmp_path / "prepared").iterdir()} == {p.name for p in folder(each[variant]).iterdir()}
    assert torch.equal(logits(session, tmp_path / "prepared"), logits(session, folder(each[variant])))


@pytest.mark.parametrize(("variant", "engine"), [("DoRA", "VLLM"), ("Full", "VLLM"), ("DoRA", "OpenAI")])
def test_what_the_engine_cannot_serve_is_not_trained(bench: Bench, variant: str, engine: str) -> None:
    stage = bench.stage({**QUICK, "variant": variant}, pairs=bench.put([pair(1)]))
    compute = Compute.model_validate({"engine": engine, "endpoint": "http://nowhere"})
    with pytest.raises(StageFailed) as failure:
        train.run(replace(stage, compute=compute))
    assert (failure.value.reason, failure.value.code) == ("EngineCannotServe", 40)
    assert f"training.variant is {variant}, which the runtime's engine {engine} cannot serve" in str(failure.value)
    assert "set training.variant to LoRA or RSLoRA, or use a runtime with engine Transformers" in str(failure.value)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is here")
def test_without_bitsandbytes_four_bits_are_refused_with_what_to_install(bench: Bench) -> None:
    with pytest.raises(StageFailed) as failure:
        trained(bench, "LoRA", quantization="NF4")
    assert (failure.value.reason, failure.value.code) == ("QuantizationUnavailable", 40)
    assert "pip install 'evolution[qlora]'" in str(failure.value)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra qlora")
@pytest.mark.parametrize("variant", ["LoRA", "DoRA"])
def test_an_adapter_trained_on_four_bits_is_used_with_the_whole_base(
    bench: Bench, session: ModelSession, variant: str
) -> None:
    before = logits(session)
    done = trained(bench, variant, quantization="NF4")
    assert "trained on 4-bit weights" in done.result.warnings[0]
    assert done.digest("adapter") == trained(bench, variant, quantization="NF4").digest("adapter")
    assert done.digest("adapter") != trained(bench, variant).digest("adapter")
    assert torch.equal(logits(session), before)
    assert not torch.equal(logits(session, folder(done)), before)


def test_gradient_checkpointing_changes_no_bit_and_is_off_afterwards(
    bench: Bench, session: ModelSession, each: Mapping[str, Done]
) -> None:
    for variant in ("LoRA", "Full"):
        stage = bench.stage({**QUICK, "variant": variant}, pairs=bench.put(map(pair, range(8))))
        done = Done(train.run(replace(stage, compute=Compute(gradient_checkpointing=True))), bench.artifacts)
        assert done.digest("adapter") == each[variant].digest("adapter")
        assert not session.base.is_gradient_checkpointing


def test_the_model_card_tells_what_was_trained_and_from_which_model(bench: Bench) -> None:
    model = "7" * 64
    pairs = bench.put(map(pair, range(8)))
    for variant, says in (("DoRA", "A DoRA adapter in PEFT format"), ("Full", "All weights of the model")):
        done = bench.do(train, {**QUICK, "variant": variant}, pairs=pairs, model=model)
        card = done.result.outputs["card"].path.read_text(encoding="utf-8")
        assert says in card
        assert f"| model | `{model}` |" in card
        assert f"| variant | {variant} |" in card
        assert "| quantization | None |" in card
        assert "licen" not in card.lower()
        assert ("PeftModel" in card) == (variant == "DoRA")
