"""Suites through lm_eval: the scores of its own backend for transformers on the same weights, and what is missing."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import transformers
from lm_eval.api.instance import Instance
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from tests.trainer.automodels import saved
from tests.trainer.evaluation.suite_data import GPT2, LLAMA, STEM, write_model, write_suites, write_tokenizer

from windlass.data.tokenizers import load_tokenizer
from windlass.engine.bases import model_in
from windlass.errors import WindlassError
from windlass.evaluation.harness import DecoderLM, Share
from windlass.evaluation.suites import open_benchmarks, run_benchmarks

SUITES = ["hellaswag", "truthfulqa", "arc", "gsm8k", *(f"mmlu_{subject}" for subject in STEM)]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data of all suites."""
    return write_suites(tmp_path_factory.mktemp("suites"), STEM)


@pytest.fixture(scope="session", params=["gpt2", "llama", "begins-with-a-token", "gpt_neox"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in Hugging Face layout."""
    root = tmp_path_factory.mktemp("models")
    if request.param == "gpt_neox":  # the decoder is none: transformers' own
        sizes = {"vocab_size": 257, "max_position_embeddings": 512, "initializer_range": 0.2}
        load_tokenizer("bytes").save(saved(root / "model", request.param, **sizes))
        return root / "model"
    tokenizer = str(write_tokenizer(root / "tokenizer")) if request.param == "begins-with-a-token" else "bytes"
    return write_model(root / "model", GPT2 if request.param == "gpt2" else LLAMA, tokenizer)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, where any will do."""
    return write_model(tmp_path_factory.mktemp("models") / "model", LLAMA)


def ours(folder: Path, batch_size: int = 3) -> DecoderLM:
    return DecoderLM(model_in(folder), load_tokenizer(str(folder)), batch_size)


def theirs(folder: Path) -> Any:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return HFLM(pretrained=model.eval(), tokenizer=transformers.AutoTokenizer.from_pretrained(folder), batch_size=2)


def everything(lm: Any, data: Path) -> dict[str, Any]:
    with open_benchmarks(SUITES, data) as benchmarks:
        for task in benchmarks.loaded["tasks"].values():
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        return dict(evaluate(lm, benchmarks.loaded, log_samples=True))


def test_scores_are_those_of_lm_evals_own_backend_on_the_same_weights(folder: Path, data: Path) -> None:
    found, expected = everything(ours(folder), data), everything(theirs(folder), data)
    for task, scores in expected["results"].items():
        # Of its metrics only truthfulqa_mc2's is no count, but a share of probability.
        close = {name: pytest.approx(value, abs=1e-6 * ("mc2" in task)) for name, value in scores.items()}
        assert found["results"][task] == close
    compared = 0
    for task, samples in expected["samples"].items():
        for one, other in zip(found["samples"][task], samples, strict=True):
            assert one["arguments"] == other["arguments"]
            for [answer], [wanted] in zip(one["resps"], other["resps"], strict=True):
                if isinstance(wanted, str):
                    assert answer == wanted
                else:
                    assert answer[0] == pytest.approx(wanted[0], rel=1e-6, abs=1e-5), "float32 has seven digits"
                    assert answer[1] == wanted[1]
                compared += 1
    assert compared > 200


def test_texts_have_the_likelihood_of_lm_evals_own_backend_within_and_beyond_the_context(folder: Path) -> None:
    texts = ["a", "the cat ran", "in rain and dark " * 200]
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    found, expected = (lm.loglikelihood_rolling(requests) for lm in (ours(folder), theirs(folder)))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("pair", [("", " cat"), ("a" * 700, " dog"), ("the ", "cat"), ("<|endoftext|></s>the", " dog")])
def test_odd_contexts_have_the_likelihood_of_lm_evals_own_backend(folder: Path, pair: tuple[str, str]) -> None:
    [one], [other] = (
        lm.loglikelihood([Instance("loglikelihood", {}, pair, 0)]) for lm in (ours(folder), theirs(folder))
    )
    assert one == (pytest.approx(other[0], rel=1e-6, abs=1e-5), other[1])


def test_batches_of_any_size_give_the_same_scores(model: Path, data: Path) -> None:
    scores = []
    for batch_size in (1, 7, 64):
        with open_benchmarks(["arc", "hellaswag"], data) as benchmarks:
            scores.append(run_benchmarks(ours(model, batch_size), benchmarks))
    assert scores[0] == scores[1] == scores[2]


def test_a_limit_takes_the_first_items_and_examples_go_before_them(model: Path, data: Path) -> None:
    with open_benchmarks(["arc_easy"], data, few_shot=2) as benchmarks:
        [score, _] = run_benchmarks(ours(model), benchmarks, limit=5)
        [task] = benchmarks.loaded["tasks"].values()
        prompts = [instance.args[0] for instance in task.instances]
    assert (score.suite, score.task, score.metric, score.items, score.few_shot) == ("arc_easy", "arc_easy", "acc", 5, 2)
    assert {prompt.count("Answer:") for prompt in prompts} == {3}


def test_every_run_of_a_suite_has_the_same_examples(model: Path, data: Path) -> None:
    prompts = []
    with open_benchmarks(["gsm8k"], data, few_shot=2) as benchmarks:
        [task] = benchmarks.loaded["tasks"].values()
        for _ in range(2):
            run_benchmarks(ours(model), benchmarks, limit=2)
            prompts.append([instance.args[0] for instance in task.instances])
    assert prompts[0] == prompts[1]


def test_processes_that_share_the_items_have_the_answers_of_one() -> None:
    questions, gathered = list(range(7)), list[list[int]]()

    def squares(of: Sequence[int]) -> list[int]:
        return [question**2 for question in of]

    def gather(own: list[int]) -> list[list[int]]:
        gathered.append(own)
        return gathered

    for rank in range(3):
        answers = Share(rank, 3, gather).answer(questions, squares)
    assert [len(part) for part in gathered] == [2, 2, 3]
    assert answers == squares(questions) == Share().answer(questions, squares)


def test_mmlu_has_a_score_of_its_own_and_of_each_subject(model: Path, tmp_path: Path) -> None:
    subjects = lm_eval_subjects()
    write_suites(tmp_path, subjects)
    with open_benchmarks(["mmlu", "mmlu_anatomy"], tmp_path) as benchmarks:
        scores = {score.task: score for score in run_benchmarks(ours(model, 16), benchmarks)}
    assert len(scores) == 57 + 4 + 1
    assert [task for task, score in scores.items() if not score.is_part] == [
        "mmlu", "mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"
    ]  # fmt: skip
    of_subjects = [scores[f"mmlu_{subject}"].value for subject in subjects]
    assert scores["mmlu"].value == pytest.approx(sum(of_subjects) / 57)
    assert scores["mmlu"].items == 57 * 3


def lm_eval_subjects() -> list[str]:
    definitions = Path(lm_eval.tasks.__file__).parent / "mmlu/default"
    return sorted(path.stem.removeprefix("mmlu_") for path in definitions.glob("mmlu_*.yaml"))


def test_an_interval_is_within_the_range_of_scores(model: Path, data: Path) -> None:
    with open_benchmarks(["arc_easy"], data) as benchmarks:
        [score, _] = run_benchmarks(ours(model), benchmarks)
    assert score.interval is not None
    assert score.stderr == pytest.approx((score.value * (1 - score.value) / (score.items - 1)) ** 0.5)
    assert 0 <= score.interval[0] <= score.value <= score.interval[1] <= 1


def without(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).unlink()


def with_text(name: str, text: str) -> Callable[[Path], None]:
    def write(data: Path) -> None:
        (data / name).write_text(text)

    return write


ARC = "arc/ARC-Easy/test.jsonl"


@pytest.mark.parametrize(
    ("suite", "damage", "reason", "message"),
    [
        ("hellaswg", None, "ConfigInvalid", "suite hellaswg: did you mean hellaswag? There are mmlu, hellaswag"),
        ("arc", without(ARC), "DataNotFound", "arc_easy needs {data}/arc/ARC-Easy/test.parquet or test.jsonl"),
        ("mmlu", None, "DataNotFound", "in the form of cais/mmlu on the Hugging Face hub"),
        ("gsm8k", without("gsm8k/train.jsonl"), "DataNotFound", "gsm8k needs {data}/gsm8k/main/train.parquet"),
        ("arc", with_text(ARC, ""), "DataCorrupt", "suite arc: {data}/arc/ARC-Easy/test.jsonl cannot be read: it is"),
        ("arc", with_text(ARC, "{"), "DataCorrupt", "test.jsonl cannot be read: Expecting property name"),
        ("arc", with_text(ARC, '{"question": "a?", "answer": 1}'), "DataCorrupt", "no choices, answerKey, but"),
        ("truthfulqa", with_text("truthfulqa/multiple_choice/validation-00000-of-00001.parquet", "x"), "DataCorrupt",
         "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_a_model_is_needed(
    suite: str, damage: Callable[[Path], None] | None, reason: str, message: str, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    if damage:
        damage(tmp_path / "data")
    with pytest.raises(WindlassError) as raised, open_benchmarks([suite], tmp_path / "data"):
        pass
    assert raised.value.reason == reason
    assert message.format(data=tmp_path / "data") in str(raised.value)


def test_items_that_only_later_lines_damage_are_data_that_cannot_be_read(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    with open(tmp_path / "data" / ARC, "a") as file:
        file.write(json.dumps({"question": 3})[:-3])
    with (
        pytest.raises(WindlassError, match="the items of arc_easy cannot be read"),
        open_benchmarks(["arc_easy"], tmp_path / "data"),
    ):
        pass
