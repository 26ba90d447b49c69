"""A model that knows a text by heart shows it, and one that does not shows nothing."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.trainer.evaluation.suite_data import GPT2, LLAMA
from tests.trainer.random_models import random_model

from windlass.data.corpus import Corpus
from windlass.data.prepare import prepare
from windlass.data.tokenizers import load_tokenizer
from windlass.engine.evaluation import Request, evaluate
from windlass.errors import WindlassError
from windlass.evaluation.memorisation import Recall, probe
from windlass.models.decoder import Decoder
from windlass.models.huggingface import export_model
from windlass.spec.job import Prepare

BYTES = load_tokenizer("bytes")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Each document repeats ten characters that no other one has."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(9):
        characters = bytes(range(33 + 10 * number, 43 + 10 * number))
        (folder / f"{number}.txt").write_bytes(characters * 12)
    spec = Prepare.model_validate({"sources": [{"uri": f"{folder}/*.txt"}], "validationFraction": 0.4})
    return prepare(spec, BYTES, str(folder / "corpus"))


def tiny() -> Decoder:
    return random_model(GPT2.model_copy(update={"context_length": 32, "vocab_size": 257, "hidden_size": 64}))


def recalled(model: Decoder, corpus: Corpus) -> dict[str, Recall]:
    return {found.text: found for found in probe(model, BYTES, corpus, passages=40, batch_size=16)}


def knowing(tokens: list[int]) -> Decoder:
    """A model that writes after each token what came after it in these, and knows nothing else."""
    config = LLAMA.model_copy(update={"context_length": 32, "vocab_size": 257, "hidden_size": 264, "kv_heads": 4})
    model = Decoder(config.model_copy(update={"tie_embeddings": False})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_("norm" in name)
        model.token_embedding.weight.copy_(torch.eye(257, 264))
        for token, following in pairwise(tokens):
            model.output.weight[following, token] += 1
    return model


def test_a_model_that_knows_its_training_text_by_heart_is_found_out(corpus: Corpus) -> None:
    split = corpus.split("train")
    found = recalled(knowing(split.read(0, split.tokens).tolist()), corpus)
    trained, changed, held_out = found.values()
    assert list(found) == ["training text", "training text with changes", "held-out text"]
    assert trained.share > 0.75, "all but what is beyond the end of a document"
    assert trained.interval is not None
    assert held_out.interval is not None
    assert trained.interval[0] > held_out.interval[1]
    assert 0.5 < changed.share < trained.share, "only the last token before a continuation matters here"
    assert trained.whole >= 20 > held_out.whole == 0
    assert (trained.passages, trained.tokens) == (40, 16)


def test_a_random_model_reproduces_nothing(corpus: Corpus) -> None:
    for found in recalled(tiny(), corpus).values():
        assert found.share < 0.05
        assert found.whole == 0


def test_the_same_seed_asks_for_the_same_passages(corpus: Corpus) -> None:
    model = tiny()
    assert recalled(model, corpus) == recalled(model, corpus)


def test_what_is_reproduced_is_in_the_record_and_the_card(corpus: Corpus, tmp_path: Path) -> None:
    export_model(tiny(), BYTES, tmp_path / "model")
    found = evaluate(tmp_path / "model", Request(memorisation=[corpus.uri], passages=6), tmp_path / "out")
    texts = ["training text", "training text with changes", "held-out text"]
    assert [(one["corpus"], one["text"], one["passages"]) for one in found["memorisation"]] == [
        (corpus.uri, text, 6) for text in texts
    ]
    card = (tmp_path / "out" / "model-card.md").read_text()
    for text in texts:
        assert f"| {corpus.uri} | reproduced, {text} | " in card
    with pytest.raises(WindlassError, match=r"there is no prepared corpus at .*gone"):
        evaluate(tmp_path / "no-model", Request(memorisation=["gone"]), tmp_path)


def test_a_corpus_that_is_too_short_or_of_another_tokenizer_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(WindlassError, match="was made with tokenizer bytes"):
        probe(tiny(), load_tokenizer("gpt2"), corpus, passages=4, batch_size=2)
    (tmp_path / "a.txt").write_text("too short a text")
    short = prepare(
        Prepare.model_validate({"sources": [{"uri": f"{tmp_path}/a.txt"}]}), BYTES, str(tmp_path / "corpus")
    )
    with pytest.raises(WindlassError, match=r"tokens in its train split; a probe of what is memorised needs 64"):
        probe(tiny(), BYTES, short, passages=4, batch_size=2)
