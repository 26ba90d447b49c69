import contextlib
import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from windlass.cli.main import app
from windlass.spec.presets import PRESETS

JOB = """\
apiVersion: windlass.dev/v1alpha1
kind: LLMTrainingJob
metadata: {name: plays}
spec:
  model: {preset: gpt2-tiny}
  data: {train: [{uri: corpora/plays}]}
  training: {maxSteps: 100}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def windlass(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    script = f"import sys\ntry:\n {statement}\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in done.stderr.split()}


def test_help_and_import_are_light() -> None:
    heavy = {"torch", "ray", "numpy", "pydantic", "rich", "fsspec", "kubernetes"}
    assert not heavy & loaded_by("from windlass.cli.main import app; app(['--help'])")
    assert not heavy - {"pydantic"} & loaded_by("import windlass")


def test_validate_runs_and_models_load_no_torch() -> None:
    assert not {"torch", "ray"} & loaded_by("from windlass.cli.main import app; app(['validate', 'job.yaml'])")
    assert not {"torch", "ray"} & loaded_by("from windlass.cli.main import app; app(['runs'])")
    assert not {"torch", "ray"} & loaded_by("from windlass.cli.main import app; app(['models'])")


def test_python_m_windlass_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "windlass", "version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("windlass ")


def test_without_a_command_the_help_is_shown() -> None:
    result = windlass()
    assert result.exit_code == 0
    assert "Exit codes: 0 done, 2 bad input, 3 failed in training, 130 interrupted." in result.stdout


def test_a_valid_file_says_so() -> None:
    result = windlass("validate", "job.yaml")
    assert (result.exit_code, result.stdout) == (0, "job.yaml: valid\n")


def test_warnings_do_not_make_a_file_invalid() -> None:
    result = windlass("validate", "job.yaml", "--set", "training.parallelism.strategy=FSDP")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "Warning: spec.training.parallelism.strategy: FSDP has nothing to share with one rank; Auto would do",
    ]


def test_problems_of_all_files_are_reported_and_the_exit_code_is_2(here: Path) -> None:
    (here / "bad.yaml").write_text(JOB.replace("maxSteps", "maxStep"))
    (here / "list.yaml").write_text("- a\n")
    result = windlass("validate", "job.yaml", "bad.yaml", "list.yaml")
    assert result.exit_code == 2
    assert result.stdout == "job.yaml: valid\n"
    assert result.stderr.splitlines() == [
        "bad.yaml:7: spec.training.maxStep: unknown field; did you mean maxSteps?",
        "list.yaml:1: a list of 1; a job is one mapping with apiVersion, kind, metadata and spec",
    ]


def test_a_file_that_is_not_there_is_one_line_and_exit_code_2() -> None:
    result = windlass("run", "gone.yaml")
    assert (result.exit_code, result.stderr) == (2, "Error: ConfigInvalid: gone.yaml: no such file\n")


def test_workers_and_name_are_options_of_a_run(here: Path) -> None:
    (here / "job.yaml").write_text(JOB + "  workers: {replicas: 4, gpusPerWorker: 8, minReplicas: 2}\n")
    result = windlass("run", "job.yaml", "--workers", "3", "--name", "Mine")
    assert result.exit_code == 2
    name, batch = result.stderr.splitlines()
    assert name.startswith('--set metadata.name="Mine": metadata.name: must be text that matches')
    assert "32 is not a multiple of replicas 3" in batch


def test_an_unknown_command_or_option_is_bad_input() -> None:
    assert windlass("trian").exit_code == 2
    assert windlass("run", "job.yaml", "--worker", "2").exit_code == 2


def test_a_restart_that_nobody_can_confirm_is_refused(here: Path) -> None:
    (here / "runs" / "plays").mkdir(parents=True)
    (here / "runs" / "plays" / "keep").touch()
    result = windlass("run", "job.yaml", "--restart")
    assert result.exit_code == 2
    assert "--restart deletes runs/plays with its checkpoints; add --yes to do so." in result.stderr
    assert (here / "runs" / "plays" / "keep").exists()


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    # None is what the import system keeps for a module that cannot be imported.
    script = "import sys; sys.modules['torch'] = None; from windlass.cli.main import app; app(['plan', 'job.yaml'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "This command needs torch, which is not installed: pip install 'windlass[train]'\n"


def test_data_prepare_needs_something_to_prepare() -> None:
    result = windlass("data", "prepare", "job.yaml")
    assert result.exit_code == 2
    assert "spec.data.prepare: missing" in result.stderr
    assert windlass("data", "prepare", "a.txt").exit_code == 2  # no --out


def test_a_corpus_is_prepared_once_and_can_be_looked_at(here: Path) -> None:
    for number in range(40):
        (here / f"{number}.txt").write_text(f"Speak, speak. {number}\n" * 20)
    (here / "job.yaml").write_text(
        JOB.replace("train: [{uri: corpora/plays}]", "prepare: {sources: [{uri: '*.txt'}]}, sequenceLength: 32")
    )
    assert "as many steps as the corpus gives" in windlass("plan", "job.yaml", "--set", "training={epochs: 1}").stdout

    prepared = windlass("data", "prepare", "job.yaml")
    assert prepared.exit_code == 0, prepared.stderr
    assert "38 documents" in prepared.stdout
    (corpus,) = (here / "corpora").iterdir()
    manifest = (corpus / "manifest.json").stat().st_mtime_ns
    assert windlass("data", "prepare", "job.yaml").exit_code == 0
    assert (corpus / "manifest.json").stat().st_mtime_ns == manifest

    seen = windlass("data", "inspect", str(corpus), "--samples", "1", "--verify")
    assert seen.exit_code == 0, seen.stderr
    assert "bytes match their hashes" in seen.stdout
    assert "Speak, speak." in seen.stdout

    plan = windlass("plan", "job.yaml", "--set", "training={epochs: 1}")
    assert plan.exit_code == 0, plan.stderr
    assert "times the data" in plan.stdout


def test_a_corpus_that_is_not_there_is_bad_input() -> None:
    result = windlass("data", "inspect", "corpora/none")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: DataNotFound: there is no prepared corpus at ")
    assert windlass("plan", "job.yaml").exit_code == 2


def test_models_are_listed_with_what_they_take_and_where_they_are_from() -> None:
    result = windlass("models")
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert rows.keys() == {"NAME", *PRESETS}
    assert rows["gpt2-small"].split()[1:7] == ["124M", "1.9", "GiB", "855M", "1,024", "gpt2"]
    assert "arXiv:2407.21783" in rows["llama-8b"]


def test_no_runs_is_said() -> None:
    assert windlass("runs").stdout == "No runs in runs.\n"


def test_runs_are_listed_from_their_folders_alone(here: Path) -> None:
    for name, phase in (("done", "Succeeded"), ("cut", "Running"), ("alive", "Running")):
        folder = here / "runs" / name
        folder.mkdir(parents=True)
        (folder / "job.yaml").write_text(JOB)
        (folder / "plan.json").write_text(json.dumps({"steps": 100}))
        (folder / "events.jsonl").write_text(json.dumps({"kind": "phase", "phase": phase, "message": ""}) + "\n")
        records = [{"kind": "validation", "step": 40, "loss": 1.5}, {"kind": "train", "step": 50, "loss": 1.25}]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(text + '{"kind": "tra')
    with open(here / "runs" / "alive" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = windlass("runs")
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert rows["NAME"] == ["NAME", "STATUS", "STEP", "LOSS", "VALIDATION", "CHANGED", "FOLDER"]
    assert rows["done"][1:5] == ["Succeeded", "50/100", "1.2500", "1.5000"]
    assert rows["cut"][1] == "Interrupted"
    assert rows["alive"][1] == "Running"
    assert rows["done"][-1] == "runs/done"


def test_a_corpus_is_made_of_sources_with_options_and_a_file_of_settings(here: Path) -> None:
    texts = [f"Speak {'a' * number}, speak." for number in range(8)]
    (here / "plays.jsonl").write_text("".join(json.dumps({"who": "X", "line": text}) + "\n" for text in texts * 2))
    (here / "settings.yaml").write_text("{clean: {controlCharacters: false}, validationFraction: 0.25}\n")
    options = ["--text-field", "{who}: {line}", "--deduplicate", "exact", "--config", "settings.yaml"]
    made = windlass("data", "prepare", "plays.jsonl", "--out", "c", "--tokenizer", "bytes", *options)
    assert made.exit_code == 0, made.stderr
    assert "8 exact duplicates" in made.stderr
    assert "6 documents" in made.stdout
    seen = windlass("data", "inspect", "c", "--sequence-length", "16").stdout
    assert "| exact duplicates | 8 | 0 |" in seen
    assert "X: Speak" in seen
    wrong = windlass("data", "prepare", "plays.jsonl", "--out", "c", "--set", "clean.unicod=true", "--format", "Jsonl")
    assert wrong.exit_code == 2
    assert sorted(wrong.stderr.splitlines()) == [
        "--set data.prepare.clean.unicod=true: spec.data.prepare.clean.unicod: unknown field; did you mean unicode?",
        "spec.data.prepare.sources[0].format: must be one of Auto, Text, Code, JsonLines, Parquet, Csv, Tsv, Html, "
        "Warc, got 'Jsonl'; did you mean JsonLines?",
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["run", "job.yaml", "--runs", "small"],
        ["data", "tokenizer", "train", "text.txt", "--vocab-size", "260", "--out", "small/tokenizer"],
    ],
    ids=["run", "tokenizer"],
)
def test_a_full_disk_is_a_line_and_exit_code_3(small_disk: Path, here: Path, command: list[str]) -> None:
    (here / "text.txt").write_text("the cat and the dog")
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(2 << 20))
    result = windlass(*command)
    assert result.exit_code == 3
    assert result.stderr.startswith("Error: StorageFull: ")
    assert result.stderr.endswith(": no space is left there; free some and run again\n")
    assert len(result.stderr.splitlines()) == 1
