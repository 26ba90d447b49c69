"""Architectures of transformers that the decoder is not: trained, killed, continued, exported; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.trainer.automodels import saved

from windlass.engine.bases import base_weights, find_base
from windlass.engine.preparation import find_model
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.engine.runs import classify_texts, export_run, load_run
from windlass.engine.weights import give_weights
from windlass.errors import WindlassError
from windlass.models.build import build_model, count_trained
from windlass.models.foreign import to_empty
from windlass.models.lora import export_adapter, merge_adapters
from windlass.spec.job import LLMTrainingJob, Model

transformers: Any = pytest.importorskip("transformers")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return saved(tmp_path / "bert", "bert")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Texts of which the "up" ones have a word that the others lack, in front or behind."""
    rows = [f"{'up' if n % 2 else 'down'}\t{'line ' * (n % 5)}{'high' * (n % 2)} {n}" for n in range(100)]
    (tmp_path / "texts.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    return tmp_path / "texts.tsv"


def overrides(base: Path, table: Path, pooling: str, model: str = "") -> list[str]:
    return [
        "task=Classify",
        f"model={{from: '{base}', head: {{labels: [up, down], pooling: {pooling}}}, {model}}}",
        "tokenizer=null",
        f"data={{examples: {{sources: [{{uri: {table}}}], testFraction: 0.2}}}}",
        "evaluation.prompts=[]",
        "training.maxSteps=24",
    ]


@pytest.mark.parametrize(
    ("pooling", "world_size", "strategy", "model"),
    [
        ("Mean", 2, "DDP", ""),
        ("FirstToken", 2, "FSDP", ""),
        ("LastToken", 1, "Auto", "lora: {rank: 4, dora: true, targets: [attention, mlp]}"),
    ],
)
def test_a_killed_classifier_ends_as_an_undisturbed_one_and_transformers_computes_the_same(
    bert: Path,
    table: Path,
    undisturbed_and_killed: Callable[..., Any],
    tmp_path: Path,
    pooling: str,
    world_size: int,
    strategy: str,
    model: str,
) -> None:
    chosen = [*overrides(bert, table, pooling, model), f"training.parallelism.strategy={strategy}"]
    groups = undisturbed_and_killed(world_size, *chosen)
    found = [
        [
            (line.get("loss"), line.get("gradient_norm"), line.get("accuracy"), line.get("confusion"))
            for line in read_lines(RunFolder(group.folder).metrics)
            if line["kind"] != "checkpoint"
        ]
        for group in groups
    ]
    assert found[0] == found[1]

    texts = ["line high 7", "8", "line line line line 3"]
    ours = classify_texts(groups[0].folder, texts)
    export_run(groups[0].folder, tmp_path / "export")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "export", trust_remote_code=True
    ).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "export" / "tokenizer.json"), pad_token="[PAD]"
    )
    with torch.no_grad():
        given = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        scores = theirs(given["input_ids"], given["attention_mask"]).logits.softmax(-1)  # padded: ours are not
    assert theirs.config.id2label == {0: "up", 1: "down"}
    torch.testing.assert_close(scores.tolist(), [list(labels.values()) for labels in ours], atol=1e-5, rtol=1e-5)


def test_a_language_model_trains_as_transformers_would_and_writes_text(
    tmp_path: Path, texts: Path, ranks: Callable[..., Any]
) -> None:
    base = saved(tmp_path / "opt", "opt", ffn_dim=32, word_embed_proj_dim=16, dropout=0.0)
    run = ranks(
        "tuned",
        2,
        f"model={{from: '{base}'}}",
        "tokenizer=null",
        "training.maxSteps=3",
        "training.schedule.warmupSteps=0",
        "evaluation.prompts=['line']",
        "training.parallelism.strategy=FSDP",
    )
    run.start_with_job_file()
    run.wait()
    model, _ = load_run(run.folder)
    tokens = torch.tensor([[4, 5, 6, 9]])
    export_run(run.folder, tmp_path / "export")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    assert theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    before = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(theirs.get_input_embeddings().weight, before.get_input_embeddings().weight)
    assert any(line["kind"] == "sample" for line in read_lines(RunFolder(run.folder).metrics))


def test_adapters_of_a_language_model_are_what_peft_reads_and_merge_without_a_trace(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = saved(tmp_path / "opt", "opt", ffn_dim=32, word_embed_proj_dim=16, dropout=0.0)
    base = find_base(str(folder), tmp_path)
    spec = Model.model_validate({"from": str(folder), "lora": {"dora": True, "targets": ["attention", "mlp"]}})
    model = build_model(base.config, spec)
    to_empty(model, torch.device("cpu"))
    give_weights(model, base, 3, trained=False)
    give_weights(model, base, 3, trained=True)
    with torch.no_grad():
        for parameter in model.eval().parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape) * parameter.requires_grad)
        tokens = torch.tensor([[4, 5, 6, 9]])
        adapted = model(tokens)
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        assert not torch.allclose(plain(tokens).logits, adapted, atol=1e-2)
        assert spec.lora is not None
        export_adapter(model, spec.lora, str(folder), tmp_path / "adapter")
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
        torch.testing.assert_close(theirs(tokens).logits, adapted, atol=1e-5, rtol=1e-5)
        merge_adapters(model)
        torch.testing.assert_close(model(tokens), adapted, atol=1e-5, rtol=1e-5)


def test_a_quantised_language_model_computes_what_its_merged_one_does(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64}
    folder = saved(tmp_path / "opt", "opt", dropout=0.0, **sizes)
    base = find_base(str(folder), tmp_path)
    lora = {"quantize": "NF4", "dora": True, "targets": ["attention", "mlp"]}
    model = build_model(base.config, Model.model_validate({"from": str(folder), "lora": lora}))
    to_empty(model, torch.device("cpu"))
    give_weights(model, base, 3, trained=False)
    give_weights(model, base, 3, trained=True)
    tokens = torch.tensor([[4, 5, 6, 9]])
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        difference = (model.eval()(tokens) - plain(tokens).logits).std() / plain(tokens).logits.std()
        assert 0.001 < difference < 0.2, "the base, rounded"
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.rand(parameter.shape))
        adapted = model(tokens)
        merge_adapters(model)
        torch.testing.assert_close(model(tokens), adapted, atol=1e-5, rtol=1e-5)


def test_parts_to_train_are_found_in_any_architecture(bert: Path, tmp_path: Path) -> None:
    config = find_base(str(bert), tmp_path).config
    block = 4 * 16 * 16 + 2 * 16 * 32 + 9 * 16 + 32  # weights, biases and norms
    head = 2 * 16 + 2
    for given, trained in {
        "Head": ({"scope": "Head"}, head),
        "LastBlocks": ({"scope": "LastBlocks", "blocks": 1}, head + block),
        "Matching": ({"scope": "Matching", "patterns": [r"layer\.0\."]}, block),
    }.values():
        spec = Model.model_validate({"from": "x", "head": {"labels": ["a", "b"]}, "trainable": given})
        assert count_trained(config, spec)[1] == trained


def test_positions_that_begin_after_the_padding_are_not_counted(tmp_path: Path) -> None:
    base = saved(tmp_path / "roberta", "roberta", pad_token_id=1)
    assert find_base(str(base), tmp_path).config.context_length == 30


def refused(job: LLMTrainingJob, tmp_path: Path) -> str:
    with pytest.raises(WindlassError) as refusal:
        find_model(job, tmp_path)
    return refusal.value.message


def test_what_cannot_be_trained_is_refused_before_data_are_prepared(
    bert: Path, table: Path, tiny_job: Callable[..., LLMTrainingJob], tmp_path: Path
) -> None:
    classify = overrides(bert, table, "Mean")
    assert "bert predicts no next token; it can be trained with task Classify" in refused(
        tiny_job(f"model={{from: '{bert}'}}", "tokenizer=null"), tmp_path
    )
    assert "64 is longer than the context" in refused(tiny_job(*classify, "data.sequenceLength=64"), tmp_path)
    assert "is no layer of the model" in refused(tiny_job(*classify, "model.lora={targets: [gate]}"), tmp_path)
    mask = [f"model={{from: '{saved(tmp_path / 'opt', 'opt')}'}}", "tokenizer=null", "data.documentMask=true"]
    assert "only the decoder keeps documents apart" in refused(tiny_job(*mask), tmp_path)
    for values, message in (
        ({"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}, "transformers has no model_type 'mine'"),
        ({"model_type": "t5"}, "t5 has an encoder and a decoder"),
        ({"model_type": "vit"}, "vit is no model of texts that fits here: it has no vocab_size"),
        ({"model_type": "bert", "hidden_size": "wide"}, "config.json: transformers has no bert like it"),
    ):
        (bert / "config.json").write_text(json.dumps(values))
        assert message in refused(tiny_job(*classify), tmp_path)


@pytest.mark.parametrize(("kind", "auto"), [("bert", "AutoModel"), ("opt", "AutoModelForCausalLM")])
def test_code_beside_the_weights_is_never_run(kind: str, auto: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / kind, kind)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "mine.Config", auto: "mine.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    base = find_base(str(folder), tmp_path)
    spec = {"from": str(folder)} | ({"head": {"labels": ["a", "b"]}} if auto == "AutoModel" else {})
    build_model(base.config, Model.model_validate(spec))
    assert base_weights(base, causal=auto != "AutoModel")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": auto_map}))
    with pytest.raises(WindlassError, match="transformers has no model_type 'mine'; code beside weights is not run"):
        find_base(str(folder), tmp_path)
    assert not (tmp_path / "was-run").exists()


def test_weights_of_another_shape_or_missing_are_named(bert: Path, tmp_path: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(WindlassError, match=r"no encoder\.layer\.2\."):
        base_weights(find_base(str(bert), tmp_path), causal=False)
    (bert / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(WindlassError, match="transformers cannot load it"):
        base_weights(find_base(str(bert), tmp_path), causal=False)


def test_the_base_is_read_as_transformers_reads_it(bert: Path, tmp_path: Path) -> None:
    base = find_base(str(bert), tmp_path)
    spec = Model.model_validate({"from": str(bert), "head": {"labels": ["a", "b"]}})
    weights = base_weights(base, causal=False)
    theirs = dict(transformers.AutoModel.from_pretrained(bert).named_parameters())
    names = [name for name, _ in build_model(base.config, spec).named_parameters() if name.startswith("body.")]
    assert not any("pooler" in name for name in names)
    assert all(torch.equal(weights[name], theirs[name.removeprefix("body.")]) for name in names)
