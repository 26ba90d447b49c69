"""What an evaluation writes, and what it refuses before a model is loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.evaluation.suite_data import LLAMA, write_model, write_suites, write_tokenizer

from windlass.engine import evaluation
from windlass.engine.evaluation import Request, evaluate
from windlass.errors import WindlassError
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


def test_a_run_is_measured_at_its_newest_checkpoint(ranks: Callable[..., Any], texts: Path, tmp_path: Path) -> None:
    group = ranks("base", 1, "metadata.name=base", "training.maxSteps=20")
    group.start_with_job_file()
    group.wait()
    found = evaluate(group.folder, Request(texts=[RawData(uri=f"{texts}/00.txt")]), tmp_path / "out")
    assert found["model"]["checkpoint"].startswith("step-00000020")
    assert 1 < found["texts"][0]["bits_per_byte"] < 8, "less than bytes of equal probability"


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("request_", "reason", "message"),
    [
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
    with pytest.raises(WindlassError, match=r"There is no run .*gone: neither"):
        evaluate(tmp_path / "gone", Request(texts=[text]), tmp_path)
