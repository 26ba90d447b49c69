"""Training that continues from weights: a run's, an export's, the hub's; and bases that do not fit, refused early."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from windlass.data.tokenizers import load_tokenizer
from windlass.engine.bases import base_weights, find_base
from windlass.engine.run_folder import RunFolder, read_json, read_lines
from windlass.engine.runs import export_run, load_run
from windlass.errors import WindlassError
from windlass.models.decoder import Decoder
from windlass.models.huggingface import export_model
from windlass.spec.job import LLMTrainingJob, Model
from windlass.spec.presets import ModelConfig, model_config

REVISION = "0123456789abcdef0123456789abcdef01234567"


def tiny(**changes: Any) -> ModelConfig:
    sizes = {"layers": 2, "heads": 2, "hidden_size": 32, "context_length": 32}
    model = Model.model_validate({"preset": "llama-tiny", "config": sizes | changes})
    return model_config(model, 257)


def exported(folder: Path, tokenizer: str = "bytes") -> Path:
    """A random model in Hugging Face layout."""
    model = Decoder(tiny())
    model.initialise(7)
    export_model(model, load_tokenizer(tokenizer), folder)
    return folder


def first_loss(run: Path) -> float:
    [loss] = [line["loss"] for line in read_lines(RunFolder(run).metrics) if line["kind"] == "train"][:1]
    return float(loss)


@pytest.fixture
def base(ranks: Callable[..., Any]) -> Any:
    """A run of 30 steps, named base."""
    group = ranks("base", 1, "metadata.name=base", "training.maxSteps=30")
    group.start_with_job_file()
    group.wait()
    return group


def test_continued_pretraining_killed_and_resumed_has_the_losses_of_an_undisturbed_run(
    base: Any, ranks: Callable[..., Any]
) -> None:
    overrides = ("model={from: 'run://base'}", "training.maxSteps=20", "training.parallelism.strategy=FSDP")
    undisturbed = ranks("undisturbed", 2, *overrides)
    undisturbed.start_with_job_file()
    undisturbed.wait()
    killed = ranks("killed", 2, *overrides)
    killed.start_with_job_file()
    killed.kill(0, at_step=12)
    killed.start_with_job_file()
    killed.wait()
    assert killed.curve() == undisturbed.curve()
    assert first_loss(killed.folder) < 0.75 * first_loss(base.folder), "the base's weights are not used"
    assert read_json(RunFolder(killed.folder).base)["checkpoint"] == "step-00000030-attempt-000001"
    assert any("run://base" in line["message"] for line in read_lines(RunFolder(killed.folder).events))


def test_a_run_keeps_the_checkpoint_that_it_began_from_when_its_base_goes_on(
    base: Any, ranks: Callable[..., Any], tmp_path: Path
) -> None:
    overrides = ("model={from: 'run://base'}", "training.maxSteps=20", "checkpoints.everySteps=20")
    undisturbed = ranks("undisturbed", 1, *overrides)
    undisturbed.start_with_job_file()
    undisturbed.wait()
    killed = ranks("killed", 1, *overrides)
    killed.start_with_job_file()
    killed.kill(0, at_step=3)  # before the first checkpoint: the base is read again
    longer = ranks("base", 1, "metadata.name=base", "training.maxSteps=35")
    longer.start_with_job_file()
    longer.wait()
    assert find_base("run://base", tmp_path / "runs").checkpoint == "step-00000035-attempt-000002"
    killed.start_with_job_file()
    killed.wait()
    assert killed.curve() == undisturbed.curve()


def test_a_folder_and_the_hub_give_the_weights_and_the_tokenizer_that_were_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Decoder(tiny())
    model.initialise(7)
    cached = tmp_path / "hub" / "models--org--tiny"
    exported(cached / "snapshots" / REVISION)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder, hub = (find_base(uri, tmp_path) for uri in (str(cached / "snapshots" / REVISION), "hf://org/tiny"))
    assert hub.place == f"hf://org/tiny@{REVISION}"
    assert hub.identity == folder.identity
    for base in (folder, hub):
        assert base.config == tiny()
        weights = base_weights(base)
        assert all(torch.equal(weights[name], ours) for name, ours in model.state_dict().items())
    assert load_tokenizer(folder.tokenizer or "").name == "bytes"
    with pytest.raises(WindlassError, match="hf://org/other cannot be downloaded and is not in HF_HOME"):
        find_base("hf://org/other", tmp_path)


def test_an_exported_model_is_trained_on_and_loaded_again(tmp_path: Path, ranks: Callable[..., Any]) -> None:
    folder = exported(tmp_path / "exported")
    (folder / "generation_config.json").write_text('{"eos_token_id": [256, 10], "top_k": 7}')
    run = ranks("tuned", 1, f"model={{from: '{folder}'}}", "training.maxSteps=3", "training.schedule.warmupSteps=0")
    run.start_with_job_file()
    run.wait()
    model, tokenizer = load_run(run.folder)
    assert model.config == tiny()
    assert tokenizer.name == "bytes"
    export_run(run.folder, tmp_path / "again")
    generation = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert generation.items() >= {"eos_token_id": [256, 10], "top_k": 7, "max_length": 32}.items()


def prepared(job: LLMTrainingJob, tmp_path: Path) -> None:
    from windlass.engine.preparation import prepare_data

    run = RunFolder(tmp_path / "runs" / "tuned")
    run.path.mkdir(parents=True)
    prepare_data(job, run, lambda message: None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenizer=gpt2", r"spec\.tokenizer: gpt2 is not the tokenizer of .*exported, bytes \(257 tokens\); leave it"),
        ("data.sequenceLength=64", r"spec\.data\.sequenceLength: 64 is longer than the context of .*, 32; lower it"),
        ("model={from: 'run://nobody'}", r"spec\.model\.from: run://nobody: There is no run"),
        ("model={from: /nowhere}", r"spec\.model\.from: /nowhere has neither config\.json"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_before_data_are_prepared(
    tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob], override: str, message: str
) -> None:
    folder = exported(tmp_path / "exported")
    job = tiny_job(f"model={{from: '{folder}'}}", override)
    with pytest.raises(WindlassError, match=message):
        prepared(job, tmp_path)
    assert not (tmp_path / "corpora").exists()


@pytest.mark.parametrize(
    ("hidden_size", "weights", "message"),
    [
        (48, True, r"weights are not those of its config\.json: .*embed_tokens\.weight has shape \[257, 32\] and not"),
        (32, False, r"model\.safetensors is not there; weights are read from it"),
    ],
)
def test_a_base_whose_files_do_not_fit_together_is_refused_before_data_are_prepared(
    tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob], hidden_size: int, weights: bool, message: str
) -> None:
    folder = exported(tmp_path / "exported")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": hidden_size}))
    if not weights:
        (folder / "model.safetensors").unlink()
    with pytest.raises(WindlassError, match=rf"^spec\.model\.from: .*{message}"):
        prepared(tiny_job(f"model={{from: '{folder}'}}"), tmp_path)
    assert not (tmp_path / "corpora").exists()


def test_a_base_without_a_tokenizer_needs_one_that_it_embeds(
    tmp_path: Path, tiny_job: Callable[..., LLMTrainingJob]
) -> None:
    folder = exported(tmp_path / "exported")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WindlassError, match=r"spec\.tokenizer: missing, and .* has no tokenizer\.json"):
        prepared(tiny_job(f"model={{from: '{folder}'}}", "tokenizer=null"), tmp_path)
    with pytest.raises(WindlassError, match=r"gpt2 has 50,257 tokens, and .* embeds 257"):
        prepared(tiny_job(f"model={{from: '{folder}'}}", "tokenizer=gpt2", "metadata.name=b"), tmp_path / "b")


def test_an_architecture_that_the_decoder_is_not_is_named(tmp_path: Path) -> None:
    folder = exported(tmp_path / "exported")
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(WindlassError, match=r"spec\.model\.from: .*exported: config\.json: model_type 'mamba' is none"):
        find_base(str(folder), tmp_path)
