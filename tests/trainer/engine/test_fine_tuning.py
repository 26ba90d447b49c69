"""Adapters and frozen parts under every strategy: killed and resumed as if nothing had been, saved without the base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from windlass.engine.run_folder import RunFolder, read_json
from windlass.engine.runs import export_run, export_run_adapter, load_run
from windlass.models.lora import adapters


@pytest.fixture
def base(ranks: Callable[..., Any]) -> Any:
    """A run of 10 steps, named base, as wide as a block of NF4."""
    group = ranks("base", 1, "metadata.name=base", "training.maxSteps=10", "model.config.hiddenSize=64")
    group.start_with_job_file()
    group.wait()
    return group


def tuned(trained: str) -> str:
    return f"model={{from: 'run://base', {trained}}}"


def bytes_of_checkpoint(run: Path) -> int:
    newest = max((run / "checkpoints").glob("step-*"))
    return sum(file.stat().st_size for file in newest.glob("*.distcp"))


@pytest.mark.parametrize(
    ("trained", "world_size", "strategy"),
    [
        ("lora: {rank: 2, dropout: 0.1, targets: [attention, mlp]}", 2, "DDP"),
        ("lora: {rank: 2, dropout: 0.1, dora: true}", 2, "FSDP"),
        ("lora: {rank: 2, dropout: 0.1, quantize: NF4}", 2, "Auto"),
        ("trainable: {scope: LastBlocks, blocks: 1}", 1, "Auto"),
    ],
)
def test_adapters_and_frozen_parts_killed_and_resumed_have_the_losses_of_an_undisturbed_run(
    base: Any, ranks: Callable[..., Any], trained: str, world_size: int, strategy: str
) -> None:
    if "NF4" in trained:
        pytest.importorskip("bitsandbytes")
    overrides = (tuned(trained), "training.maxSteps=16", f"training.parallelism.strategy={strategy}")
    undisturbed = ranks("undisturbed", world_size, *overrides)
    undisturbed.start_with_job_file()
    undisturbed.wait()
    killed = ranks("killed", world_size, *overrides)
    killed.start_with_job_file()
    killed.kill(0, at_step=9)
    killed.start_with_job_file()
    killed.wait()
    assert killed.curve() == undisturbed.curve()

    plan = read_json(RunFolder(killed.folder).plan)
    assert (plan["quantised"] > 0) == ("NF4" in trained)
    assert plan["trained"] < plan["parameters"]
    before, after = (load_run(folder)[0].state_dict() for folder in (base.folder, killed.folder))
    assert torch.equal(before["blocks.0.attention_norm.weight"], after["blocks.0.attention_norm.weight"])
    changed = "blocks.1.attention.qkv.weight"
    assert not torch.equal(before[changed], after[changed])
    if "lora" in trained:
        assert bytes_of_checkpoint(killed.folder) < 0.6 * bytes_of_checkpoint(base.folder)


def test_adapters_are_exported_merged_and_alone(base: Any, ranks: Callable[..., Any], tmp_path: Path) -> None:
    run = ranks("tuned", 1, tuned("lora: {rank: 2}"), "training.maxSteps=6")
    run.start_with_job_file()
    run.wait()
    export_run(run.folder, tmp_path / "merged")
    export_run_adapter(run.folder, tmp_path / "adapter")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert not [name for name in merged if "lora" in name]
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.transformer.h.0.attn.c_attn.lora_{part}.weight"] for part in "AB")
    export_run(base.folder, tmp_path / "base")
    weight = load_file(tmp_path / "base" / "model.safetensors")["transformer.h.0.attn.c_attn.weight"]
    torch.testing.assert_close(merged["transformer.h.0.attn.c_attn.weight"], weight + 16.0 * (b @ a).T)


def test_a_quantised_base_is_merged_as_it_was_trained_on_and_learns_as_the_whole_one(
    base: Any, ranks: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    targets = "rank: 2, targets: [attention, mlp]"
    groups = [
        ranks(name, 1, tuned(f"lora: {{{targets}, quantize: {name}}}"), "training.maxSteps=20")
        for name in ("None", "NF4")
    ]
    for run in groups:
        run.start_with_job_file()
        run.wait()
    whole, rounded = (
        [losses[0] for (kind, _), losses in run.curve().items() if kind == "validation"] for run in groups
    )
    assert rounded != whole
    assert rounded == pytest.approx(whole, abs=0.02)

    folder = groups[1].folder
    tokens = torch.arange(24).reshape(2, 12)
    before, merged, apart = load_run(base.folder)[0], load_run(folder)[0], load_run(folder, merge=False)[0]
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens), apart(tokens), atol=1e-5, rtol=1e-5)
    for name, layer in adapters(apart):
        weight, kept = before.get_parameter(f"{name}.weight"), layer.full_weight()
        error = (kept - weight).norm() / weight.norm()
        assert 0.05 < error < 0.12, "4 bits are about 0.09 off"
        update = layer.scale * layer.lora_b @ layer.lora_a
        torch.testing.assert_close(merged.get_parameter(f"{name}.weight"), kept + update)
    export_run_adapter(folder, tmp_path / "adapter")
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
