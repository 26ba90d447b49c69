"""What an evaluation writes, and what it refuses before a model is loaded."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.trainer.automodels import saved
from tests.trainer.evaluation.suite_data import GPT2, LLAMA, write_model, write_suites, write_tokenizer

from windlass.data.corpus import Corpus
from windlass.data.tokenizers import load_tokenizer
from windlass.engine import evaluation
from windlass.engine.evaluation import Request, evaluate
from windlass.errors import WindlassError
from windlass.evaluation.bigram import Bigram
from windlass.models.generation import generate
from windlass.models.huggingface import load_model
from windlass.spec.job import RawData


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in Hugging Face layout."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny", LLAMA)


@pytest.fixture
def text(tmp_path: Path) -> RawData:
    (tmp_path / "text.txt").write_text("the cat ran to a house | in rain. " * 40)
    return RawData(uri=str(tmp_path / "text.txt"))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading one fails the test."""
    monkeypatch.setattr(evaluation, "_load", lambda *_: pytest.fail("a model was loaded"))


def test_a_folder_gets_its_numbers_and_a_card(model: Path, text: RawData, tmp_path: Path) -> None:
    data = write_suites(tmp_path / "data")
    request = Request(suites=["arc", "gsm8k"], texts=[text], data=data, limit=2, batch_size=4)
    found = evaluate(model, request, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == json.loads(json.dumps(found))
    assert found["model"] == {
        "name": "tiny",
        "place": str(model),
        "checkpoint": None,
        "parameters": 23744,
        "context_length": 512,
        "tokenizer": "bytes",
        "vocab_size": 257,
    }
    assert [(score["task"], score["metric"], score["items"], score["few_shot"]) for score in found["suites"]] == [
        ("arc_easy", "acc", 2, 0),
        ("arc_easy", "acc_norm", 2, 0),
        ("arc_challenge", "acc", 2, 0),
        ("arc_challenge", "acc_norm", 2, 0),
        ("gsm8k", "exact_match, strict-match", 2, 5),
        ("gsm8k", "exact_match, flexible-extract", 2, 5),
    ]
    [measured] = found["texts"]
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert card.startswith("# tiny\n")
    assert f"| perplexity | {measured['perplexity']:.2f} |" in card
    assert "| gsm8k | exact_match, strict-match | 0.0000 | 0.0000 to 0.0000 | 2 items, 5 examples before each |" in card
    assert "lm_eval 0." in card
    assert "The first 2 items of each task" in card


def test_a_run_is_measured_at_its_newest_checkpoint_beside_what_it_began_with_and_the_bigrams_of_its_corpus(
    ranks: Callable[..., Any], texts: Path, tmp_path: Path
) -> None:
    base = ranks("base", 1, "metadata.name=base", "training.maxSteps=20")
    tuned = ranks("tuned", 1, "model={from: 'run://base'}", "metadata.name=tuned", "training.maxSteps=5")
    for group in (base, tuned):
        group.start_with_job_file()
        group.wait()
    request = Request(texts=[RawData(uri=f"{texts}/00.txt")], prompts=["the "], max_new_tokens=4)
    found = evaluate(tuned.folder, request, tmp_path / "out")
    assert found["model"]["checkpoint"].startswith("step-00000005")
    assert (found["base"]["name"], found["base"]["place"]) == ("base", "run://base")
    assert found["base"]["checkpoint"].startswith("step-00000020")
    [text] = found["texts"]
    assert 1 < text["bits_per_byte"] < 8, "less than bytes of equal probability"
    [corpus] = found["baseline"]["corpora"]
    assert text["compared"]["bigram"]["bits_per_byte"] == pytest.approx(bigram_bits(corpus, texts / "00.txt"))
    alone = evaluate(base.folder, Request(texts=request.texts, alone=True), tmp_path / "alone")
    assert alone["base"] is None
    assert alone["texts"][0]["compared"] == {}
    assert text["compared"]["base"]["bits_per_byte"] == alone["texts"][0]["bits_per_byte"]
    assert found["samples"][0].keys() == {"prompt", "text", "base"}
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert "| What | Metric | Score | 95 % interval | Base | Above base | Bigram | Above bigram | Of |" in card
    shutil.rmtree(base.folder)
    with pytest.raises(WindlassError, match=r"tuned began with run://base: .*, --base, or none: --alone"):
        evaluate(tuned.folder, request, tmp_path / "gone")


def bigram_bits(corpus: str, text: Path) -> float:
    """Bits per byte of a bigram model of the corpus, of bytes, token by token."""
    bigram = Bigram.fit([(Corpus.open(corpus).split("train"), 1.0)], 257)
    tokens = [256, *text.read_bytes()]
    pairs = itertools.pairwise(tokens)
    found = [float(bigram.probability(np.array([one]), np.array([two]))[0]) for one, two in pairs]
    return -sum(math.log2(probability) for probability in found) / (len(tokens) - 1)


def test_a_difference_has_the_interval_of_the_items_differences(model: Path, text: RawData, tmp_path: Path) -> None:
    data = write_suites(tmp_path / "data")
    other = write_model(tmp_path / "other", GPT2)
    request = Request(suites=["arc_easy"], texts=[text], data=data, base=str(other), batch_size=16)
    found = evaluate(model, request, tmp_path / "out")
    alone = evaluate(
        other, Request(suites=["arc_easy"], texts=[text], data=data, batch_size=16), tmp_path / "other-out"
    )
    for score, of_other in zip(found["suites"], alone["suites"], strict=True):
        beside = score["compared"]["base"]
        assert beside["value"] == of_other["value"]
        assert beside["value_above"] == pytest.approx(score["value"] - of_other["value"])
    [one], [two] = found["texts"], alone["texts"]
    beside = one["compared"]["base"]
    assert beside["perplexity"] == two["perplexity"]
    low, high = beside["bits_per_byte_above_interval"]
    assert low < beside["bits_per_byte_above"] == one["bits_per_byte"] - two["bits_per_byte"] < high
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{beside['bits_per_byte_above']:+.4f}\n({low:+.4f} to {high:+.4f})" in page
    itself = evaluate(model, Request(suites=["arc_easy"], data=data, base=str(model)), tmp_path / "itself")
    assert {tuple(score["compared"]["base"]["value_above_interval"]) for score in itself["suites"]} == {(0.0, 0.0)}


def test_several_processes_that_share_the_items_find_what_one_finds(model: Path, tmp_path: Path) -> None:
    """With another model beside it, and questions of both kinds: likelihoods and generated answers."""
    data = write_suites(tmp_path / "data")
    base = write_model(tmp_path / "base", GPT2)
    request = Request(suites=["arc_easy", "gsm8k"], base=str(base), data=data, limit=5, batch_size=2)
    alone, together = (
        evaluate(model, replace(request, workers=workers), tmp_path / f"by-{workers}") for workers in (1, 2)
    )
    assert together["suites"] == alone["suites"]
    assert all(score["compared"]["base"] for score in alone["suites"])


def test_models_of_different_tokens_are_compared_by_bits_per_byte_alone(
    model: Path, text: RawData, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", LLAMA, str(write_tokenizer(tmp_path / "tokenizer")))
    [found] = evaluate(model, Request(texts=[text], base=str(other)), tmp_path / "out")["texts"]
    assert set(found["compared"]["base"]) == {
        "bits_per_byte", "bits_per_byte_interval", "bits_per_byte_above", "bits_per_byte_above_interval"
    }  # fmt: skip
    assert found["compared"]["base"]["bits_per_byte_above_interval"] is None


def test_prompts_are_continued_side_by_side_and_what_a_model_writes_is_no_markup(model: Path, tmp_path: Path) -> None:
    prompt = "</pre><b>the | cat"
    request = Request(prompts=[prompt], base=str(model), max_new_tokens=9)
    found = evaluate(model, request, tmp_path / "out")
    [sample] = found["samples"]
    assert sample["text"] == sample["base"], "the likeliest tokens of the same model"
    lm, bytes_ = load_model(model), load_tokenizer("bytes")
    expected = generate(lm, bytes_.encode(prompt).tolist(), 9, temperature=0, end_token=256, vocab_size=257)
    assert sample["text"] == bytes_.decode(list(expected))
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("&lt;/pre&gt;&lt;b&gt;the | cat</b>") == 2
    assert prompt not in page


@torch.no_grad()
def test_a_language_model_that_the_decoder_is_not_is_measured_beside_another_one_and_as_a_run(
    ranks: Callable[..., Any], tmp_path: Path
) -> None:
    transformers: Any = pytest.importorskip("transformers")
    (tmp_path / "text.txt").write_text("line high line end 7 8 9")
    base = saved(tmp_path / "base", "gpt_neox")
    request = Request(texts=[RawData(uri=str(tmp_path / "text.txt"))], prompts=["line"], max_new_tokens=40)
    run = ranks(
        "tuned", 1, f"model={{from: '{base}'}}", "tokenizer=null", "training.maxSteps=6", "evaluation.prompts=[]"
    )
    run.start_with_job_file()
    run.wait()
    found = evaluate(run.folder, request, tmp_path / "out")
    assert found["base"]["place"] == str(base)

    theirs = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    tokenizer = load_tokenizer(str(base))
    tokens = [tokenizer.end_of_document, *tokenizer.encode("line high line end 7 8 9").tolist()]
    loss = float(theirs(torch.tensor([tokens]), labels=torch.tensor([tokens])).loss)
    [text], [sample] = found["texts"], found["samples"]
    assert text["compared"]["base"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert text["perplexity"] != text["compared"]["base"]["perplexity"]
    alone = evaluate(base, request, tmp_path / "alone")
    assert alone["model"]["parameters"] == sum(parameter.numel() for parameter in theirs.parameters())
    assert alone["texts"][0]["perplexity"] == text["compared"]["base"]["perplexity"]
    assert alone["samples"][0]["text"] == sample["base"] != ""
    [two] = evaluate(base, replace(request, base=str(run.folder)), tmp_path / "two")["texts"]
    assert two["compared"]["base"]["perplexity"] == text["perplexity"]


def test_a_model_that_writes_no_text_is_refused_with_what_to_use(text: RawData, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    bert = saved(tmp_path / "bert", "bert")
    with pytest.raises(WindlassError, match=r"bert: bert predicts no next token; it can be trained with task Classify"):
        evaluate(bert, Request(texts=[text]), tmp_path)
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(WindlassError, match=r"bert is a classifier and writes no text; .* `windlass classify RUN`"):
        evaluate(bert, Request(texts=[text]), tmp_path)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("request_", "reason", "message"),
    [
        (Request(texts=[RawData(uri="a")], alone=True, base="b"), "ConfigInvalid", "--alone compares with nothing"),
        (Request(), "ConfigInvalid", "there is nothing to measure; name a suite"),
        (Request(texts=[RawData(uri="gone.txt")]), "DataNotFound", r"gone\.txt"),
        (Request(suites=["arcs"]), "ConfigInvalid", "suite arcs: did you mean arc?"),
        (Request(suites=["gsm8k"], data=Path("gone")), "DataNotFound", "gsm8k needs gone/gsm8k/main/train.parquet or"),
    ],
)
def test_what_is_not_there_is_said_before_the_model_is_loaded(
    model: Path, tmp_path: Path, request_: Request, reason: str, message: str
) -> None:
    with pytest.raises(WindlassError, match=message) as raised:
        evaluate(model, request_, tmp_path)
    assert raised.value.reason == reason


def test_a_tokenizer_that_is_not_the_models_is_refused(model: Path, text: RawData, tmp_path: Path) -> None:
    request = Request(texts=[text])
    with pytest.raises(WindlassError, match=r"--tokenizer gpt2 is not the tokenizer of .*tiny, bytes \(257 tokens\)"):
        evaluate(model, request, tmp_path, tokenizer="gpt2")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((model / name).read_bytes())
    with pytest.raises(WindlassError, match=r"bare has no tokenizer\.json; name the one of its training: --tokenizer"):
        evaluate(bare, request, tmp_path)
    other = str(write_tokenizer(tmp_path / "other"))
    with pytest.raises(WindlassError, match=r"tokens, and .*bare embeds 257; name the one it was trained with"):
        evaluate(bare, request, tmp_path, tokenizer=other)
    assert evaluate(bare, request, tmp_path, tokenizer="bytes")["texts"] == evaluate(model, request, tmp_path)["texts"]


def test_neither_a_run_nor_a_model_is_said_to_be_none(text: RawData, tmp_path: Path) -> None:
    with pytest.raises(WindlassError, match=r"There is no run gone: .*gone/job\.yaml does not exist"):
        evaluate(tmp_path / "gone", Request(texts=[text]), tmp_path)
