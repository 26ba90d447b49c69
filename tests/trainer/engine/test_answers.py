"""Answers of models that follow instructions, and of those that only continue."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.evaluation.suite_data import LLAMA, write_model, write_tokenizer

from windlass.data.tokenizers import load_tokenizer
from windlass.engine import answers as engine
from windlass.engine.answers import Sampling, find_authors, write_answers
from windlass.errors import WindlassError
from windlass.evaluation.questions import Question
from windlass.models.decoder import Decoder
from windlass.tasks.templates import BUILT_IN

QUESTION = Question("1", ("Who?", "Why?"), None, (), "here")


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model is asked to continue; it always says the same."""
    asked: list[str] = []

    def generate(model: Decoder, prompt: list[int], count: int, **settings: Any) -> Iterator[int]:
        own = model.config.vocab_size > 257
        tokenizer = load_tokenizer(str(tmp_path / "tokenizer") if own else "bytes")
        asked.append(tokenizer.decode(prompt))
        yield from tokenizer.encode(" Me.<|im_end|>\n<|im_start|>user\nAnd then?").tolist()[:count]

    monkeypatch.setattr(engine, "generate", generate)
    return asked


def test_a_conversation_is_in_the_tokenizers_template_and_an_answer_ends_with_it(
    prompts: list[str], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "chat", LLAMA, str(write_tokenizer(tmp_path / "tokenizer")))
    (model / "chat_template.jinja").write_text(BUILT_IN["ChatML"])
    [author] = find_authors([model], None, tmp_path)
    assert write_answers(author, [QUESTION], tmp_path, Sampling(), lambda done: None) == [("Me.", "Me.")]
    start = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    again = "Me.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert prompts == [start, start + again]


def test_a_model_without_a_template_continues_the_question(prompts: list[str], tmp_path: Path) -> None:
    [author] = find_authors([write_model(tmp_path / "raw", LLAMA)], None, tmp_path)
    [answers] = write_answers(author, [QUESTION], tmp_path, Sampling(max_tokens=4), lambda done: None)
    assert answers == ("Me.", "Me.")
    assert prompts == ["Who?", "Who?\n\nMe.\n\nWhy?"]


def test_other_weights_or_settings_are_asked_anew(prompts: list[str], tmp_path: Path) -> None:
    model = write_model(tmp_path / "raw", LLAMA)
    done: list[int] = []

    def write(sampling: Sampling) -> int:
        [author] = find_authors([model], None, tmp_path)
        prompts.clear()
        write_answers(author, [QUESTION], tmp_path, sampling, done.append)
        return len(prompts)

    assert [write(Sampling()), write(Sampling()), write(Sampling(max_tokens=9)), write(Sampling())] == [2, 0, 2, 0]
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert write(Sampling()) == 2
    assert done == [0, 1, 1, 0, 1, 1, 0, 1]


def test_names_tell_models_of_the_same_name_apart(tmp_path: Path) -> None:
    places = [write_model(tmp_path / run / "export", LLAMA) for run in ("one", "two")]
    one, two = find_authors(places, None, tmp_path)
    assert (one.name, two.name) == (str(places[0]).strip("/"), str(places[1]).strip("/"))
    assert one.file != two.file
    with pytest.raises(WindlassError, match="is named twice"):
        find_authors([places[0], places[0]], None, tmp_path)
