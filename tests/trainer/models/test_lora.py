"""Adapters begin as nothing, merge without a trace, and are what peft reads; parts are trained that were asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from windlass.data.tokenizers import load_tokenizer
from windlass.errors import WindlassError
from windlass.models.build import build_model, count_trained, initialise_added
from windlass.models.decoder import Decoder
from windlass.models.huggingface import export_model
from windlass.models.lora import LoraLinear, adapters, export_adapter, merge_adapters
from windlass.spec.job import Lora, Model
from windlass.spec.presets import ModelConfig, model_config

TOKENS = torch.arange(24).reshape(2, 12)


def model_spec(preset: str = "gpt2-tiny", **fields: Any) -> tuple[ModelConfig, Model]:
    sizes = {"layers": 3, "hiddenSize": 32, "heads": 4, "contextLength": 32}
    spec = Model.model_validate({"preset": preset, "config": sizes, **fields})
    return model_config(spec, 257), spec


def adapted(preset: str, head: dict[str, Any] | None = None, **lora: Any) -> Decoder:
    """A model with adapters as they may be after training, in evaluation mode."""
    model = build_model(*model_spec(preset, lora={"rank": 4, **lora}, head=head))
    assert isinstance(model, Decoder)
    model.initialise(3)
    initialise_added(model, 3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, layer in adapters(model):
            layer.lora_b.normal_(0.0, 0.05, generator=generator)
            if layer.lora_magnitude is not None:
                layer.lora_magnitude.mul_(1 + 0.2 * torch.rand(layer.out_features, generator=generator))
    return model.eval()


def trained(preset: str = "gpt2-tiny", **fields: Any) -> list[str]:
    model = build_model(*model_spec(preset, **fields))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


DORA = pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])


@DORA
def test_a_new_adapter_changes_nothing_and_a_trained_one_merges_without_a_trace(dora: bool) -> None:
    model = adapted("llama-tiny", targets=["attention", "mlp"], dora=dora)
    plain = Decoder(model.config).eval()
    logits = model(TOKENS)
    initialise_added(model, 3)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "lora" not in name})
    torch.testing.assert_close(model(TOKENS), plain(TOKENS), atol=1e-6 if dora else 0.0, rtol=0.0)

    model = adapted("llama-tiny", targets=["attention", "mlp"], dora=dora)
    merge_adapters(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(model(TOKENS), logits, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_dora_takes_the_lengths_of_rows_as_constants() -> None:
    lora, x = Lora(rank=2, dora=True), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    layer = LoraLinear(4, 3, False, lora)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    layer(x).square().sum().backward()

    w, a, b, m = (p.detach().clone().requires_grad_() for p in layer.parameters())
    changed = w + lora.alpha / lora.rank * b @ a
    lengths = changed.detach().square().sum(1).sqrt()
    (x @ (m[:, None] * changed / lengths[:, None]).T).square().sum().backward()
    for ours, expected in zip(layer.parameters(), (w, a, b, m), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, atol=1e-4, rtol=1e-4)


@DORA
@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_peft_computes_what_we_do_from_our_adapter_beside_the_exported_base(
    tmp_path: Path, preset: str, dora: bool
) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = adapted(preset, targets=["attention", "mlp"], dora=dora)
    lora = Lora(rank=4, dora=dora)
    export_adapter(model, lora, "base", tmp_path / "adapter")
    expected = model(TOKENS)
    initialise_added(model, 3)
    merge_adapters(model)
    export_model(model, load_tokenizer("bytes"), tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "llama-tiny"])
def test_peft_classifies_as_we_do_from_an_adapter_with_its_head_beside_the_language_model(
    tmp_path: Path, preset: str
) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = adapted(preset, head={"labels": ["ham", "spam", "eggs"]})
    lora = Lora(rank=4)
    export_adapter(model, lora, "base", tmp_path / "adapter")
    expected = model(TOKENS)[:, -1]
    base = Decoder(model_spec(preset)[0])
    base.initialise(4)
    base.load_state_dict(model.state_dict(), strict=False)
    export_model(base, load_tokenizer("bytes"), tmp_path / "base")
    auto = transformers.AutoModelForSequenceClassification
    theirs = auto.from_pretrained(tmp_path / "base", num_labels=3, pad_token_id=256)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_a_classifier_that_transformers_reads_otherwise_is_not_exported_alone(tmp_path: Path) -> None:
    model = adapted("llama-tiny", head={"labels": ["ham", "spam"], "pooling": "Mean"})
    with pytest.raises(WindlassError, match="no pooling but LastToken; this one has Mean"):
        export_adapter(model, Lora(rank=4), "base", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("targets", [["mlp"], [r"feed_forward\.up"]], ids=["both", "one"])
def test_adapters_of_layers_that_are_one_in_the_file_are_exported_merged_alone(
    tmp_path: Path, targets: list[str]
) -> None:
    sizes = {"layers": 1, "hiddenSize": 32, "heads": 4, "contextLength": 32, "rotaryFraction": 0.75}
    model = build_model(*model_spec("phi-3-mini", config=sizes, lora={"targets": targets}))
    with pytest.raises(WindlassError, match=r"gate_up_proj is .* and another layer in one"):
        export_adapter(model, Lora(), "base", tmp_path / "adapter")


def test_scopes_train_what_they_say() -> None:
    blocks = [f"blocks.2.{name}" for name, _ in Decoder(model_spec()[0]).blocks[2].named_parameters()]
    assert trained(trainable={"scope": "Head"}) == ["token_embedding.weight"], "it is the output layer too"
    last = trained(trainable={"scope": "LastBlocks", "blocks": 1})
    assert last == ["token_embedding.weight", *blocks, "norm.weight", "norm.bias"]
    assert trained(trainable={"scope": "Matching", "patterns": [r"blocks\.0\.attention\.", "^norm"]}) == [
        *("blocks.0.attention.qkv.weight", "blocks.0.attention.qkv.bias"),
        *("blocks.0.attention.output.weight", "blocks.0.attention.output.bias", "norm.weight", "norm.bias"),
    ]
    assert len(trained(lora={})) == 3 * 2 * 2
    assert len(trained(lora={"targets": ["mlp", "attention.qkv"]})) == 3 * 3 * 2
    assert count_trained(*model_spec(lora={"rank": 2}))[1] == 3 * 2 * ((32 + 96) + (32 + 32))
    assert count_trained(*model_spec(lora={"rank": 2, "dora": True}))[1] == 3 * (2 * ((32 + 96) + (32 + 32)) + 96 + 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora": {"targets": ["atention"]}}, r"spec\.model\.lora\.targets: 'atention' is no layer .* attention, mlp"),
        ({"trainable": {"scope": "Matching", "patterns": ["layer9"]}}, r"patterns: 'layer9' is in no parameter's name"),
        ({"trainable": {"scope": "LastBlocks", "blocks": 4}}, r"spec\.model\.trainable\.blocks: 4 of 3 layers"),
    ],
)
def test_parts_that_are_not_there_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(WindlassError, match=message):
        count_trained(*model_spec(**fields))
