"""Benchmark suites through lm_eval: which tasks they are, where their data is, and their scores.

The tasks' own code makes prompts, picks answers and scores them; only where their data comes from is changed, for
machines without a network.
"""

import difflib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import lm_eval.tasks
import pyarrow.parquet
from datasets.exceptions import DatasetGenerationError
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from windlass.errors import WindlassError
from windlass.evaluation.harness import DecoderLM
from windlass.evaluation.scores import Item, Score
from windlass.intervals import stderr_of_mean

READERS = {".parquet": "parquet", ".jsonl": "json"}
"""Endings of data files -> what reads them in `datasets`."""
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class Suite:
    """A benchmark, and what its data looks like."""

    tasks: tuple[str, ...]
    """What lm_eval calls it: tasks, or a group."""
    folder: str
    """Of lm_eval's definitions."""
    dataset: str
    """On the Hugging Face hub."""
    fields: tuple[str, ...]
    """Columns that its tasks read."""
    text: tuple[str, ...]
    """Of them, those whose text is looked for in training data."""


SUITES = {
    "mmlu": Suite(("mmlu",), "mmlu/default", "cais/mmlu", ("question", "choices", "answer"), ("question", "choices")),
    "hellaswag": Suite(
        ("hellaswag",),
        "hellaswag",
        "Rowan/hellaswag",
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        ("ctx_a", "ctx_b", "endings"),
    ),
    "truthfulqa": Suite(
        ("truthfulqa_mc1", "truthfulqa_mc2"),
        "truthfulqa",
        "truthfulqa/truthful_qa",
        ("question", "mc1_targets", "mc2_targets"),
        ("question",),
    ),
    "arc": Suite(
        ("arc_easy", "arc_challenge"),
        "arc",
        "allenai/ai2_arc",
        ("question", "choices", "answerKey"),
        ("question", "choices"),
    ),
    "gsm8k": Suite(("gsm8k",), "gsm8k", "openai/gsm8k", ("question", "answer"), ("question", "answer")),
}
"""Name -> suite; each of a suite's tasks can be asked for by its own name, too."""


@dataclass(frozen=True)
class Benchmarks:
    """Tasks with their data, ready to run."""

    loaded: dict[str, Any]
    """As `TaskManager.load` returns it."""
    suites: dict[str, str]
    """Task or group -> the name it was asked for by."""
    owners: dict[str, str]
    """Task -> the suite it belongs to."""

    def items(self, limit: int | None = None) -> dict[Item, str]:
        """The text of each item of all tasks, or of their first `limit`: what is looked for in training data."""
        return {
            (name, number): " ".join(_texts([item[field] for field in SUITES[self.owners[name]].text]))
            for name, task in self.loaded["tasks"].items()
            for number, item in enumerate(islice(task.eval_docs, limit))
        }


@contextmanager
def open_benchmarks(
    names: Sequence[str], data: Path | None = None, few_shot: int | None = None
) -> Iterator[Benchmarks]:
    """Find suites or single tasks, and read their data; from `data` where that is given, else from the hub.

    Args:
        data: has SUITE/CONFIG/SPLIT.parquet or .jsonl, as `find_files` says.
        few_shot: solved examples before each item, in place of each task's own number.

    Raises:
        WindlassError: ConfigInvalid for an unknown name; DataNotFound, DataCorrupt for files that are missing or not
            the suite's.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    definitions = [Path(lm_eval.tasks.__file__).parent / suite.folder for suite in SUITES.values()]
    index = TaskManager(include_path=list(definitions), include_defaults=False)
    asked = {name: _resolve(name, index) for name in dict.fromkeys(names)}
    tasks = {task: name for name, (_, found) in asked.items() for task in found}
    of_groups = {leaf for task in tasks for leaf in _leaves([task], index) if leaf != task}
    with TemporaryDirectory(prefix="windlass-") as folder:
        if data is not None:
            for suite, found in asked.values():
                for task in _leaves(found, index):
                    _redirect(task, suite, data, index, Path(folder), few_shot)
            index = TaskManager(include_path=[*definitions, folder], include_defaults=False)
        suites = {task: name for task, name in tasks.items() if task not in of_groups}
        loaded = _load(list(suites), index, data)
        for task in loaded["tasks"].values():
            task.set_config(key="num_fewshot", value=_shots(task.get_config("num_fewshot"), few_shot))
        owners = {task: suite for suite, found in asked.values() for task in _leaves(found, index)}
        yield Benchmarks(loaded, suites, owners)


def run_benchmarks(
    model: DecoderLM, benchmarks: Benchmarks, limit: int | None = None, known: Collection[Item] | None = None
) -> list[Score]:
    """Scores of all tasks and groups, on their first `limit` items; as lm_eval aggregates them.

    With the items that are `known` from training data, each score is followed by that of all other items.
    """
    for task in benchmarks.loaded["tasks"].values():
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)  # each run draws the same examples
    results = evaluate(model, benchmarks.loaded, limit=limit)
    groups: Mapping[str, list[str]] = benchmarks.loaded["group_map"]
    scores: list[Score] = []

    def collect(task: str, suite: str, is_part: bool) -> None:
        measured = results["results"][task]
        for key, value in measured.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            stderr = measured[f"{metric}_stderr,{kind}"]
            values = _values(_tasks(task, groups), metric, kind, results["samples"])
            scores.append(
                Score(
                    suite=suite,
                    task=task,
                    metric=metric if kind == "none" else f"{metric}, {kind}",
                    value=float(value),
                    stderr=None if stderr == "N/A" else float(stderr),
                    items=int(measured["sample_len"]),
                    few_shot=int(results["n-shot"].get(task, 0)),
                    is_part=is_part,
                    values=values,
                )
            )
            clean = {} if known is None else {item: value for item, value in values.items() if item not in known}
            if clean:
                scores.append(replace(scores[-1], **_mean(clean), is_clean=True))
        for part in groups.get(task, []):
            collect(part, suite, is_part=part not in groups)

    for task, suite in benchmarks.suites.items():
        collect(task, suite, is_part=False)
    return scores


def _tasks(name: str, groups: Mapping[str, list[str]]) -> list[str]:
    """A task, or those of a group."""
    return [task for part in groups[name] for task in _tasks(part, groups)] if name in groups else [name]


def _values(tasks: Sequence[str], metric: str, kind: str, samples: Mapping[str, Any]) -> dict[Item, float]:
    return {
        (task, sample["doc_id"]): float(sample[metric])
        for task in tasks
        for sample in samples[task]
        if sample["filter"] == kind
    }


def _mean(values: Mapping[Item, float]) -> dict[str, Any]:
    of_items = list(values.values())
    value, stderr = sum(of_items) / len(of_items), stderr_of_mean(of_items)
    return {"value": value, "stderr": stderr, "items": len(of_items), "values": values}


def _texts(value: Any) -> Iterator[str]:
    """The texts in a field; of ARC's choices without their labels."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(value["text"])
    else:
        for part in value:
            yield from _texts(part)


def find_files(suite: str, config: str | None, split: str, data: Path) -> list[Path]:
    """A split's files: SPLIT.parquet, SPLIT-*.parquet or the same of .jsonl, as in a copy of the hub's repository.

    They are in data/SUITE/CONFIG; for a suite of one configuration also in data/SUITE or data/SUITE/data.
    """
    folders = [data / suite / config] if config else []
    if suite not in ("mmlu", "arc"):
        folders += [data / suite, data / suite / "data"]
    for folder in folders:
        for ending in READERS:
            found = sorted({*folder.glob(f"{split}{ending}"), *folder.glob(f"{split}-*{ending}")})
            if found:
                return found
    return []


def _resolve(name: str, index: TaskManager) -> tuple[str, list[str]]:
    """The suite that a name is or belongs to, and the tasks or groups to run. Raises ConfigInvalid."""
    if name in SUITES:
        return name, list(SUITES[name].tasks)
    of_suite = dict.fromkeys(index.all_groups, "mmlu")
    of_suite |= {task: suite for suite, known in SUITES.items() for task in _leaves(known.tasks, index)}
    if name not in of_suite:
        near = difflib.get_close_matches(name.lower(), [*SUITES, *of_suite], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise WindlassError(
            "ConfigInvalid",
            f"suite {name}: {hint}There are {', '.join(SUITES)}, and the tasks of each, such as arc_easy",
        )
    return of_suite[name], [name]


def _leaves(names: Sequence[str], index: TaskManager) -> list[str]:
    """The tasks that groups and tags stand for."""
    found: list[str] = []
    for name in names:
        entry = index.task_index[name]
        parts: Any = sorted(entry.tags) if entry.kind.name == "TAG" else entry.cfg["task"]
        found += [name] if isinstance(parts, str) else _leaves(parts, index)
    return found


def _shots(own: int | None, asked: int | None) -> int:
    """Solved examples before each item; a task that is defined to have none keeps to it, as in lm_eval."""
    return (own or 0) if asked is None or own == 0 else asked


def _redirect(task: str, suite: str, data: Path, index: TaskManager, folder: Path, few_shot: int | None) -> None:
    """Write a definition of the task to `folder` that is lm_eval's, but reads local files."""
    definition = index.task_index[task]
    config: dict[str, Any] = definition.cfg
    name = config.get("dataset_name")
    shots = _shots(config.get("num_fewshot"), few_shot)
    splits = {key: config[key] for key in SPLITS if config.get(key)}
    measured = splits.get("test_split") or splits["validation_split"]
    examples = splits.get("fewshot_split") or splits.get("training_split")
    files: dict[str, list[str]] = {}
    for split in dict.fromkeys(splits.values()):
        found = find_files(suite, name, split, data)
        if found:
            for file in found:
                _check(file, suite)
            files[split] = [str(file) for file in found]
        elif split == measured or (shots and split == examples):
            place = data / suite / name if name else data / suite
            raise WindlassError(
                "DataNotFound",
                f"suite {suite}: {task} needs {place}/{split}.parquet or {split}.jsonl, in the form of "
                f"{SUITES[suite].dataset} on the Hugging Face hub; a copy of that repository in {data / suite} will do",
            )
    endings = {Path(file).suffix for found in files.values() for file in found}
    if len(endings) > 1:
        both = " and ".join(sorted(endings))
        raise WindlassError("ConfigInvalid", f"suite {suite}: {data / suite} has files of {both}; leave one kind")
    redirected = {
        "include": str(definition.yaml_path),
        "dataset_path": READERS[endings.pop()],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        **{key: None for key, split in splits.items() if split not in files},
    }
    (folder / f"{task}.yaml").write_text(json.dumps(redirected))


def _check(file: Path, suite: str) -> None:
    """Raise DataCorrupt where a file's first item has not what the suite's tasks read."""
    try:
        if file.suffix == ".parquet":
            columns = pyarrow.parquet.read_schema(file).names
        else:
            with open(file, encoding="utf-8") as lines:
                columns = list(json.loads(next(line for line in lines if line.strip())))
    except (ValueError, StopIteration, OSError) as error:
        why = str(error) or "it is empty"
        raise WindlassError("DataCorrupt", f"suite {suite}: {file} cannot be read: {why}") from error
    missing = [field for field in SUITES[suite].fields if field not in columns]
    if missing:
        raise WindlassError(
            "DataCorrupt",
            f"suite {suite}: {file} has no {', '.join(missing)}, but {', '.join(columns)}; its items are those of "
            f"{SUITES[suite].dataset}",
        )


def _load(tasks: Sequence[str], index: TaskManager, data: Path | None) -> dict[str, Any]:
    """The tasks with their data. Raises DataNotFound where the hub does not answer, DataCorrupt for broken files."""
    datasets.disable_progress_bars()
    try:
        loaded: dict[str, Any] = index.load(list(tasks))
    except (DatasetGenerationError, OSError, ValueError, LookupError) as error:
        if data is not None:
            why = _line(error.__cause__ or error)
            raise WindlassError(
                "DataCorrupt", f"{data}: the items of {', '.join(tasks)} cannot be read: {why}"
            ) from error
        raise WindlassError(
            "DataNotFound",
            f"the data of {', '.join(tasks)} cannot be downloaded and are not in HF_HOME; check the network, or name a "
            f"folder that has them with --data: {_line(error)}",
        ) from error
    return loaded


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
