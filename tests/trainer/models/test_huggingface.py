import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.trainer.random_models import random_model

from windlass.data.tokenizers import load_tokenizer
from windlass.errors import WindlassError
from windlass.models.decoder import Decoder
from windlass.models.families import read_config, write_config
from windlass.models.generation import generate
from windlass.models.huggingface import export_model, load_model
from windlass.spec.job import RopeScaling
from windlass.spec.presets import PRESETS, ModelConfig
from windlass.tasks.pretrain import token_loss

AUTO_MODEL: Any = transformers.AutoModelForCausalLM  # its types are too narrow
SMALL = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "context_length": 24, "vocab_size": 257}
GPT2 = PRESETS["gpt2-tiny"].config.model_copy(update=SMALL)
LLAMA = PRESETS["llama-tiny"].config.model_copy(update=SMALL | {"heads": 4, "kv_heads": 4})


def small(preset: str, **changes: Any) -> ModelConfig:
    config = PRESETS[preset].config
    kv_heads = max(1, 4 * config.kv_heads // config.heads)
    return config.model_copy(update=SMALL | {"heads": 4, "kv_heads": kv_heads} | changes)


MODELS = {
    "gpt2": GPT2,
    "gpt2-untied": GPT2.model_copy(update={"tie_embeddings": False}),
    "gpt2-exact-gelu": GPT2.model_copy(update={"activation": "GELU", "norm_epsilon": 1e-3}),
    "gpt2-without-biases": GPT2.model_copy(update={"bias": False, "qkv_bias": False}),
    "llama-tied": LLAMA,
    "llama-untied": LLAMA.model_copy(update={"tie_embeddings": False, "norm_epsilon": 1e-3}),
    "llama-grouped-query": LLAMA.model_copy(update={"kv_heads": 2, "tie_embeddings": False}),
    "llama-theta": LLAMA.model_copy(update={"kv_heads": 1, "rope_theta": 500000.0}),
    "llama-biases": LLAMA.model_copy(update={"bias": True, "qkv_bias": True}),
    "llama-biases-but-qkv": LLAMA.model_copy(update={"bias": True}),
    "llama-head-size": LLAMA.model_copy(update={"head_size": 12}),
    "llama-linear": LLAMA.model_copy(update={"rope_scaling": RopeScaling(type="Linear", factor=3.0)}),
    "llama-3.1": LLAMA.model_copy(
        update={"rope_scaling": RopeScaling(type="Llama3", factor=3.0, original_context_length=8)}
    ),
    "llama-yarn": LLAMA.model_copy(
        update={"rope_scaling": RopeScaling(type="YaRN", factor=3.0, original_context_length=8, beta_fast=2.0)}
    ),
    "mistral": LLAMA.model_copy(update={"kv_heads": 2, "sliding_window": 7}),
    "qwen2": LLAMA.model_copy(update={"qkv_bias": True}),
    "qwen3": small("qwen3-0.6b", head_size=12),
    "phi": small("phi-2", rotary_fraction=0.5),
    "phi-qk-norm-less-rotation": small("phi-2", rotary_fraction=0.25, qk_norm=True),
    "phi3": small("phi-3-mini", sliding_window=7, rotary_fraction=0.75, kv_heads=2),
    "gemma": small("gemma-2b", head_size=12),
    "gemma2": small("gemma2-9b", head_size=12, sliding_window=7, attention_scalar=20.0, attention_softcap=2.0),
    "gemma3": small(
        "gemma3-4b", head_size=12, sliding_window=7, global_attention_every=2, local_rope_theta=50.0, logit_softcap=3.0
    ),
}
FAMILIES = ["gpt2", "llama-3.1", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma2", "gemma3"]


def logits(model: torch.nn.Module) -> torch.Tensor:
    tokens = torch.randint(257, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(tokens)
    return output if isinstance(output, torch.Tensor) else output.logits


def assert_same(first: torch.Tensor, second: torch.Tensor) -> None:
    assert first.std() > 0.1
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def export(config: ModelConfig, folder: Path) -> Decoder:
    model = random_model(config)
    export_model(model, load_tokenizer("bytes"), folder)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_an_export_and_has_its_logits(name: str, tmp_path: Path) -> None:
    model = export(MODELS[name], tmp_path / "export")
    theirs, report = AUTO_MODEL.from_pretrained(
        tmp_path / "export", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    assert_same(logits(theirs.eval()), logits(model))
    assert_same(logits(load_model(tmp_path / "export")), logits(model))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_transformers_is_read_with_its_logits(name: str, tmp_path: Path) -> None:
    theirs = transformers_model(name)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    ours = load_model(tmp_path)
    assert_same(logits(ours), logits(theirs))
    assert not ours.training
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in ours.parameters())


def transformers_model(name: str) -> Any:
    """One of theirs, with every weight at random."""
    config = transformers.AutoConfig.for_model(**write_config(MODELS[name], end_token=256))
    torch.manual_seed(0)
    theirs = AUTO_MODEL.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return theirs.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_generation_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = transformers_model(name)
    theirs.save_pretrained(tmp_path)
    prompt = [3, 1, 4, 1, 5]
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=19, do_sample=False, eos_token_id=None)
    assert list(generate(load_model(tmp_path), prompt, 19, temperature=0)) == expected[0, 5:].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_optimizer_steps_give_the_losses_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = transformers_model(name)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    batches = torch.randint(257, (4, 2, 25), generator=torch.Generator().manual_seed(2)).repeat(5, 1, 1)
    losses: list[list[float]] = [[], []]
    for model, found in zip((ours, theirs), losses, strict=True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
        for batch in batches:
            output = model(batch[:, :-1])
            loss = token_loss(output if model is ours else output.logits, batch[:, 1:]) / 48
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
    assert losses[0][0] - losses[0][-4] > 0.1, "it learns"
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_loading_needs_no_transformers() -> None:
    code = "import sys, windlass.models.huggingface; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_export_has_a_tokenizer_that_transformers_reads(tmp_path: Path) -> None:
    export(GPT2, tmp_path / "export")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer("Hé!").input_ids == load_tokenizer("bytes").encode("Hé!").tolist()
    generation = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256, "max_length": 24}


def test_an_export_carries_the_chat_template_and_how_its_base_generates(tmp_path: Path) -> None:
    base = tmp_path / "base"
    export(GPT2, base)
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    del tokenizer["windlass"]
    (base / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (base / "chat_template.jinja").write_text("{% for message in messages %}<{{ message.content }}>{% endfor %}")
    generation = {"eos_token_id": [256, 3], "top_k": 7, "transformers_version": "4"}
    export_model(load_model(base), load_tokenizer(str(base)), tmp_path / "export", generation=generation)
    theirs = AUTO_MODEL.from_pretrained(tmp_path / "export").generation_config
    assert (theirs.top_k, theirs.eos_token_id, theirs.pad_token_id, theirs.max_length) == (7, [256, 3], 256, 24)
    chat = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert chat.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<Hi>"


def test_names_of_older_files_are_read(tmp_path: Path) -> None:
    model = export(GPT2, tmp_path / "export")
    file = tmp_path / "export" / "model.safetensors"
    old = {name.removeprefix("transformer."): weight for name, weight in load_file(file).items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    old["lm_head.weight"] = old["wte.weight"].clone()
    save_file(old, file)
    assert_same(logits(load_model(tmp_path / "export")), logits(model))


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    export(LLAMA, tmp_path / "export")
    file = tmp_path / "export" / "model.safetensors"
    save_file({name: weight.bfloat16() for name, weight in load_file(file).items()}, file)
    assert {parameter.dtype for parameter in load_model(tmp_path / "export").parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("base", "changes", "field"),
    [
        (GPT2, {"norm": "RMSNorm"}, "norm: RMSNorm, where GPT-2 has LayerNorm"),
        (GPT2, {"activation": "SwiGLU"}, "activation: SwiGLU, where GPT-2 has GELUTanh"),
        (GPT2, {"kv_heads": 2}, "kvHeads: 2, where GPT-2 has 4"),
        (GPT2, {"sliding_window": 8}, "slidingWindow: 8, where GPT-2 has None"),
        (LLAMA, {"norm": "LayerNorm"}, "norm: LayerNorm, where Llama has RMSNorm"),
        (LLAMA, {"activation": "GELU"}, "activation: GELU, where Llama has SwiGLU"),
        (LLAMA, {"sliding_window": 8, "qkv_bias": True}, "qkvBias: True, where Mistral has False"),
    ],
)
def test_what_transformers_cannot_be_is_refused_before_anything_is_written(
    base: ModelConfig, changes: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(WindlassError, match=f"spec.model.config.{field}") as caught:
        export(base.model_copy(update=changes), tmp_path / "export")
    assert caught.value.reason == "ConfigInvalid"
    assert list(tmp_path.iterdir()) == []


def test_an_export_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    class BrokenTokenizer:
        end_of_document = 256

        def save(self, folder: Path) -> None:
            assert (folder / "model.safetensors").exists()
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        export_model(random_model(GPT2), BrokenTokenizer(), tmp_path / "export")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(WindlassError, match="is not an empty folder"):
        export(GPT2, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_may_be_exported_to(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    export(GPT2, tmp_path / "export")
    load_model(tmp_path / "export")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "export"
    export(LLAMA, folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export"))


def fails(folder: Path, reason: str, *words: str) -> None:
    with pytest.raises(WindlassError) as caught:
        load_model(folder)
    assert caught.value.reason == reason
    for word in words:
        assert word in str(caught.value)


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    expected = "model.layers.0.mlp.gate_proj.weight has shape [48, 32] and not [40, 32]"
    fails(folder, "DataCorrupt", str(folder), expected, "and 1 more")


def test_weights_that_are_missing_or_too_many_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.extra.weight"] = weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors")
    fails(folder, "DataCorrupt", "model.norm.weight is missing", "model.layers.1.mlp.extra.weight is not known")


def test_damaged_and_missing_files_are_named(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:1000])
    fails(folder, "DataCorrupt", "model.safetensors is damaged")
    (folder / "model.safetensors").unlink()
    fails(folder, "DataNotFound", "model.safetensors is not there")
    (folder / "config.json").write_text("{")
    fails(folder, "DataCorrupt", "config.json is not JSON")
    (folder / "config.json").unlink()
    fails(folder, "DataNotFound", "config.json is not there")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is none of gpt2, llama, mistral, qwen2"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"mlp_bias": True}, "attention_bias is False; the decoder of this model has True"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
    ],
)
def test_architectures_that_the_decoder_is_not_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    fails(folder, "ConfigInvalid", message)


def test_a_size_that_config_json_lacks_or_garbles_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": "many"}))
    fails(folder, "DataCorrupt", "vocab_size: Input should be a valid integer")
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    fails(folder, "DataCorrupt", "'hidden_size' is missing")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_place_in_transformers(name: str) -> None:
    config = PRESETS[name].config
    back = read_config(write_config(config, end_token=0))
    assert back.model_copy(update={"bias": config.bias, "qkv_bias": config.qkv_bias}) == config


def test_files_of_the_hub_that_leave_out_defaults_are_read() -> None:
    gpt2 = {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
    assert read_config(gpt2).model_copy(update={"dropout": 0.0}) == PRESETS["gpt2-small"].config
    llama = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 24,
        "vocab_size": 257,
        "rope_scaling": None,
        "rope_theta": 500000,
    }
    assert read_config(llama).rope_theta == 500000.0
    assert read_config(llama).kv_heads == 4
    assert not read_config(llama).tie_embeddings
