import json
import math
from pathlib import Path

import pytest
import torch
from tests.trainer.evaluation.suite_data import GPT2
from tests.trainer.random_models import random_model
from torch.nn import functional as F

from windlass.data.tokenizers import load_tokenizer
from windlass.errors import WindlassError
from windlass.evaluation.perplexity import score_text
from windlass.models.decoder import Decoder
from windlass.spec.job import RawData

BYTES = load_tokenizer("bytes")
END = BYTES.end_of_document


@pytest.fixture(scope="module")
def model() -> Decoder:
    return random_model(GPT2.model_copy(update={"context_length": 16, "vocab_size": 257}))


def test_a_short_text_has_the_perplexity_of_its_tokens_after_the_end_of_a_document(
    model: Decoder, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("héllo")
    found = score_text(model, BYTES, RawData(uri=str(tmp_path / "a.txt")), batch_size=4)
    tokens = torch.tensor([END, *"héllo".encode()])
    with torch.no_grad():
        loss = float(F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:]))
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(loss / math.log(2), rel=1e-6), "a token is a byte"
    assert (found.tokens, found.bytes, found.windows, found.stderr) == (6, 6, 1, None)
    assert found.perplexity_interval is None


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_documents_are_read_by_themselves_and_every_token_counts_once(
    model: Decoder, tmp_path: Path, batch_size: int
) -> None:
    texts = ["one line of text" * 3, "", "and a much longer one of several windows " * 9]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    source = RawData.model_validate({"uri": str(tmp_path / "a.jsonl"), "textField": "body"})
    found = score_text(model, BYTES, source, batch_size=batch_size)
    parts = []
    for number, text in enumerate(filter(None, texts)):
        (tmp_path / f"{number}.txt").write_text(text)
        parts.append(score_text(model, BYTES, RawData(uri=str(tmp_path / f"{number}.txt")), batch_size=batch_size))
    assert found.tokens == found.bytes == sum(map(len, texts))
    assert found.windows == 3 + math.ceil(len(texts[2]) / 16)
    assert found.loss == pytest.approx(sum(part.loss * part.tokens for part in parts) / found.tokens)
    assert found.stderr is not None
    low, high = found.bits_per_byte_interval or (0, 0)
    assert low < found.bits_per_byte < high


def test_a_limit_takes_the_first_windows(model: Decoder, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("a text of several windows. " * 20)
    (tmp_path / "start.txt").write_text(("a text of several windows. " * 20)[:48])
    found, start = (
        score_text(model, BYTES, RawData(uri=str(tmp_path / name)), batch_size=2, limit=limit)
        for name, limit in (("long.txt", 3), ("start.txt", None))
    )
    assert found.loss == pytest.approx(start.loss)
    assert (found.tokens, found.bytes, found.windows) == (48, 48, 3)


def test_bits_per_byte_are_of_bytes_whatever_the_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("naïve 日本 " * 30)
    model = Decoder(GPT2.model_copy(update={"vocab_size": 50257}))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    found = score_text(model, load_tokenizer("gpt2"), RawData(uri=str(tmp_path / "a.txt")), batch_size=2)
    assert found.perplexity == pytest.approx(50257, rel=1e-4), "all tokens are equally likely"
    assert found.bytes == len(("naïve 日本 " * 30).encode())
    assert found.bits_per_byte == pytest.approx(found.tokens * math.log2(50257) / found.bytes, rel=1e-5)


def test_the_interval_covers_the_loss_of_the_whole_text_as_often_as_it_says(model: Decoder, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    texts = [bytes(torch.randint(97, 123, (320,), generator=generator).tolist()).decode() for _ in range(60)]
    (tmp_path / "all.txt").write_text("".join(texts))
    whole = score_text(model, BYTES, RawData(uri=str(tmp_path / "all.txt")), batch_size=64).loss
    covered = 0
    for text in texts:
        (tmp_path / "part.txt").write_text(text)
        part = score_text(model, BYTES, RawData(uri=str(tmp_path / "part.txt")), batch_size=64)
        assert part.stderr is not None
        covered += abs(part.loss - whole) <= 1.96 * part.stderr
    assert covered >= 51, "57 of 60 are expected; 51 or fewer have a probability below 1 %"


def test_a_text_without_words_is_not_measured(model: Decoder, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(WindlassError, match=r"empty\.txt has no text") as raised:
        score_text(model, BYTES, RawData(uri=str(tmp_path / "empty.txt")), batch_size=1)
    assert raised.value.reason == "DataNotFound"
