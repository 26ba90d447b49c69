"""Small data in the form of each benchmark's dataset, and models to ask."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from tests.trainer.random_models import random_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from windlass.data.tokenizers import load_tokenizer
from windlass.models.huggingface import export_model
from windlass.spec.presets import PRESETS, ModelConfig

Item = dict[str, Any]
WORDS = ["the", "cat", "dog", "ran", "to", "a", "house", "in", "rain", "and", "slept", "while", "it", "was", "dark"]
STEM = ("anatomy", "astronomy", "college_physics")
SMALL = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "context_length": 512, "heads": 4}
GPT2 = PRESETS["gpt2-tiny"].config.model_copy(update=SMALL | {"kv_heads": 4})
LLAMA = PRESETS["llama-tiny"].config.model_copy(update=SMALL | {"kv_heads": 2})


def hellaswag(random: random.Random) -> Item:
    return {
        "ind": random.randrange(1000),
        "activity_label": "Removing ice",
        "ctx_a": words(random, 9),
        "ctx_b": words(random, 3),
        "ctx": "",
        "endings": [f"{words(random, 8)} [title] {words(random, 2)}." for _ in range(4)],
        "source_id": "a~b",
        "split": "val",
        "split_type": "indomain",
        "label": str(random.randrange(4)),
    }


def truthfulqa(random: random.Random) -> Item:
    def targets(right: int) -> Item:
        count = right + 3
        return {"choices": [words(random, 5) + "." for _ in range(count)], "labels": [1] * right + [0] * 3}

    return {"question": words(random, 7) + "?", "mc1_targets": targets(1), "mc2_targets": targets(2)}


def arc(random: random.Random) -> Item:
    labels = random.choice([["A", "B", "C", "D"], ["1", "2", "3"]])
    return {
        "id": str(random.randrange(10**6)),
        "question": words(random, 8) + "?",
        "choices": {"text": [words(random, 3) for _ in labels], "label": labels},
        "answerKey": random.choice(labels),
    }


def mmlu(random: random.Random) -> Item:
    choices = [words(random, 3) for _ in range(4)]
    return {"question": words(random, 9) + "?", "subject": "", "choices": choices, "answer": random.randrange(4)}


def gsm8k(random: random.Random) -> Item:
    first, second = random.randrange(50), random.randrange(50)
    working = f"It is {first}+{second}=<<{first}+{second}={first + second}>>{first + second}.\n#### {first + second}"
    return {"question": f"{words(random, 5)} {first} and {second}?", "answer": working}


def words(random: random.Random, count: int) -> str:
    return " ".join(random.choices(WORDS, k=count))


def write_suites(folder: Path, subjects: Iterable[str] = ()) -> Path:
    """Data of every suite; of MMLU's for these subjects only. JSON lines, and Parquet as the hub has it for two."""
    source = random.Random(7)

    def write(name: str, make: Any, count: int) -> None:
        items = [make(source) for _ in range(count)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), path)
        else:
            path.write_text("".join(json.dumps(item) + "\n" for item in items))

    write("hellaswag/data/validation-00000-of-00001.parquet", hellaswag, 10)
    write("truthfulqa/multiple_choice/validation-00000-of-00001.parquet", truthfulqa, 6)
    for config in ("ARC-Easy", "ARC-Challenge"):
        write(f"arc/{config}/test.jsonl", arc, 12)
        write(f"arc/{config}/train.jsonl", arc, 6)
    write("gsm8k/train.jsonl", gsm8k, 8)
    write("gsm8k/test.jsonl", gsm8k, 6)
    for subject in subjects:
        write(f"mmlu/{subject}/dev.jsonl", mmlu, 5)
        write(f"mmlu/{subject}/test.jsonl", mmlu, 3)
    return folder


def write_model(folder: Path, config: ModelConfig, tokenizer: str = "bytes") -> Path:
    """A random model in Hugging Face layout, for all tokens of its tokenizer."""
    tokens = load_tokenizer(tokenizer)
    export_model(random_model(config.model_copy(update={"vocab_size": tokens.vocab_size})), tokens, folder)
    return folder


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer that puts <s> before each text, as Llama's does."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    trained.train_from_iterator([" ".join(WORDS)] * 9 + ["Question: Answer:"] * 9, trainer)
    trained.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>")])
    start = trained.token_to_id("<s>")
    trained.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", start)])
    folder.mkdir()
    trained.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
