"""The command `windlass`: its commands and options, and the one place where an error becomes an exit code.

What a command does is imported inside it, so that help and completion load neither pydantic nor PyTorch.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from windlass.cli.cluster.commands import cancel, logs, resume, status, submit, suspend
from windlass.cli.options import JobFile, Overrides
from windlass.errors import INTERRUPTED, WindlassError

EXTRAS = {
    **{name: name for name in ("datasets", "tensorboard", "wandb")},
    **dict.fromkeys(("resiliparse", "warcio"), "html"),
    "kubernetes": "cluster",
    "lm_eval": "evaluate",
    "py3langid": "languages",
}
"""Modules that come with an extra of their own; every other one that can be missing comes with `train`."""


class Commands(TyperGroup):
    """Runs a command, and says in a line or some what went wrong with it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the first word, or of the first two: `evaluate judge` is one, beside `evaluate RUN`."""
        two_words = " ".join(args[:2])
        return super().resolve_command(ctx, [two_words, *args[2:]] if two_words in self.commands else args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a WindlassError, a full disk, a missing package and Ctrl-C end in exit codes."""
        try:
            return super().invoke(ctx)
        except WindlassError as error:
            _say(error)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            from windlass.storage import refusal

            if (refused := refusal(error, error.filename or "the disk")) is None:
                raise
            _say(refused)
            raise typer.Exit(refused.exit_code) from error
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module in ("", "windlass"):
                raise
            extra = EXTRAS.get(module, "train")
            typer.echo(
                f"This command needs {module}, which is not installed: pip install 'windlass[{extra}]'", err=True
            )
            raise typer.Exit(2) from error
        except (KeyboardInterrupt, typer.Abort) as error:  # Abort: Ctrl-C at a question
            raise typer.Exit(INTERRUPTED) from error


def _say(error: WindlassError) -> None:
    from windlass.spec.problems import InvalidJob

    if isinstance(error, InvalidJob):
        typer.echo(str(error), err=True)
    else:
        typer.echo(f"{typer.style('Error', fg='red')}: {error.reason}: {error}", err=True)


app = typer.Typer(
    cls=Commands,
    help="Train language models: the same job file on this machine and on a Kubernetes cluster.",
    epilog="Exit codes: 0 done, 2 bad input, 3 failed in training, 130 interrupted.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Prepare corpora, and look at them.", no_args_is_help=True)
app.add_typer(data, name="data")
tokenizer = typer.Typer(help="Train tokenizers.", no_args_is_help=True)
data.add_typer(tokenizer, name="tokenizer")

Workers = Annotated[
    int | None, typer.Option(min=1, help="Number of ranks, whatever spec.workers says.", show_default=False)
]
Name = Annotated[str | None, typer.Option(help="Name of the run, in place of metadata.name.", show_default=False)]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
DEFAULT_RUNS = Path("runs")
Run = Annotated[str, typer.Argument(help="Name of a run, or its folder.", metavar="RUN", show_default=False)]


@app.callback()
def windlass(context: typer.Context) -> None:
    """Show the help when no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    file: JobFile,
    overrides: Overrides = None,
    workers: Workers = None,
    name: Name = None,
    runs: Runs = DEFAULT_RUNS,
    restart: Annotated[bool, typer.Option("--restart", help="Delete what the run has done, and start over.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before --restart deletes.")] = False,
) -> None:
    """Train, or continue a run where it stopped.

    The run of a name continues from its last checkpoint. Ctrl-C saves a checkpoint and stops; pressed twice it stops at
    once. A file of several jobs runs them one after the other: what has finished is not run again.
    """
    from windlass.cli.jobs import load_several, say_warnings
    from windlass.cli.run import run_job
    from windlass.cli.stages import run_stages

    jobs = load_several(file, overrides, workers=workers, name=name)
    for job in jobs:
        say_warnings(job)
    again = ["windlass", "run", str(file), *(word for change in overrides or [] for word in ("--set", change))]
    again += ["--workers", str(workers)] if workers is not None else []
    again += ["--name", name] if name is not None else []
    again += ["--runs", str(runs)] if runs != DEFAULT_RUNS else []
    how: dict[str, Any] = {"runs": runs, "restart": restart, "yes": yes, "again": shlex.join(again)}
    raise typer.Exit(run_job(jobs[0], **how) if len(jobs) == 1 else run_stages(jobs, file.stem, **how))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Job files.", metavar="FILE...", show_default=False)],
    overrides: Overrides = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check what holds on a cluster only, too.")] = False,
) -> None:
    """Check job files: every problem at once.

    Each with its line, what is allowed, and the nearest name.
    """
    from windlass.cli.jobs import validate_files

    validate_files(files, overrides, cluster=cluster)


@app.command()
def plan(
    file: JobFile,
    overrides: Overrides = None,
    workers: Workers = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Say what a run would be, without training.

    Parameters, memory, batches and steps on this machine.
    """
    from windlass.cli.jobs import load, say_warnings
    from windlass.cli.plan import show_plan

    job = load(file, overrides, workers=workers)
    say_warnings(job)
    show_plan(job, runs)


@app.command("models")
def list_models() -> None:
    """List the presets for spec.model.preset.

    Parameters, memory of the state in training, FLOPs of a token at the whole context, and where each was published.
    """
    from windlass.cli.models import lines
    from windlass.cli.show import write

    for line in lines():
        write(line)


@app.command()
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="Text to continue; - reads it from standard input.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Divides the logits; 0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the fewest tokens whose probabilities reach p.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Continue a prompt with a trained model.

    Text appears as it is generated.
    """
    from windlass.cli.text import stream

    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    stream(run, prompt, runs=runs, max_new_tokens=max_tokens, **sampling)


@app.command()
def classify(
    run: Run,
    text: Annotated[list[str], typer.Option(help="Text to classify; - reads one a line from standard input.")],
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Say which label a text has, by a trained classifier.

    Each text with its label and the label's probability.
    """
    from windlass.cli.text import classify as say

    say(run, text, runs=runs)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run, or a folder in Hugging Face layout.", metavar="RUN|FOLDER", show_default=False)
    ],
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", help="mmlu, hellaswag, truthfulqa, arc, gsm8k, or a task of one. Repeatable."),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", help="File, folder or URI to measure perplexity and bits per byte on. Repeatable."),
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(help='Column that holds the text, or several: "{question} {answer}".')
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the suites' data; by default they come from the Hugging Face hub.")
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option(min=0, help="Solved examples before each item; by default as lm_eval defines a task.")
    ] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(help="Corpus or sources of the training: scores without the items that are in them. Repeatable."),
    ] = None,
    memorisation: Annotated[
        list[str] | None,
        typer.Option(help="Prepared corpus of the training: is its text reproduced? Repeatable."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Run or model to compare with; by default what the run began with, if weights.", metavar="RUN|FOLDER"
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Prepared corpus of the bigram baseline of texts; by default the run's. Repeatable."),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Compare with nothing.")] = False,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="Text that the models continue. Repeatable.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of a continued prompt.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, help="Of a continued prompt; 0 takes the likeliest token each time.")
    ] = 0.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first items of each task, and windows of each text.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that the model reads at once.")] = 8,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that share the suites' items; by default one for each GPU."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Of a folder that has none, as spec.tokenizer.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of evaluation.json, model-card.md and report.html; by default the model's."),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Measure a model: perplexity and bits per byte on texts, and scores of benchmark suites.

    Beside them are those of the weights it began with, and of a bigram model of its corpus.
    Scores have 95 % intervals. The suites need the extra `evaluate`.
    """
    if not sys.stderr.isatty():  # read when tqdm is imported, which PyTorch does
        os.environ.setdefault("TQDM_DISABLE", "1")
    from windlass.cli.evaluate import show_evaluation

    show_evaluation(
        model,
        runs=runs,
        suites=suites or [],
        texts=texts or [],
        text_field=text_field,
        data=data,
        few_shot=few_shot,
        decontaminate=decontaminate or [],
        memorisation=memorisation or [],
        base=base,
        baseline=baseline or [],
        alone=alone,
        prompts=prompts or [],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        tokenizer=tokenizer,
        out=out,
    )


Prompts = Annotated[
    str,
    typer.Option(help="Questions: .jsonl, .parquet, .csv or .tsv with prompt, or turns.", show_default=False),
]
Tokenizer = Annotated[str | None, typer.Option(help="Of folders that have none, as spec.tokenizer.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")]
Temperature = Annotated[float, typer.Option(min=0, help="Of answers: divides the logits; 0 takes the likeliest token.")]
Seed = Annotated[int, typer.Option(help="Of answers.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first questions.")]


@app.command("evaluate judge")
def evaluate_judge(
    models: Annotated[
        list[str],
        typer.Argument(
            help="One to grade, or two to compare: a run, a folder in Hugging Face layout, a file of answers.",
            metavar="RUN|FOLDER|FILE",
            show_default=False,
        ),
    ],
    prompts: Prompts,
    judge: Annotated[str, typer.Option(help="The judge's name at its endpoint.", metavar="MODEL", show_default=False)],
    url: Annotated[
        str, typer.Option(help="An OpenAI-compatible endpoint: https://api.openai.com/v1.", show_default=False)
    ],
    key_variable: Annotated[
        str | None, typer.Option(help="Environment variable that has the endpoint's key: OPENAI_API_KEY.")
    ] = None,
    price_in: Annotated[float | None, typer.Option(min=0, help="Dollars for a million tokens that it reads.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Dollars for a million tokens that it writes.")] = None,
    judge_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a judgement at most.")] = 1024,
    parallel: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before a judge is paid.")] = False,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    limit: Limit = None,
    tokenizer: Tokenizer = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of answers, judgements, judge.json and judge.md; by default in judged/.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Have a model judge answers: grades of one model's, from 1 to 10, or which of two models' are better.

    Pairs are judged in both orders. What was judged is kept, and not paid again.
    """
    from windlass.cli.judge import judge_models

    judge_models(
        models,
        prompts,
        judge,
        url,
        key_variable,
        prices=(price_in, price_out),
        judge_tokens=judge_tokens,
        parallel=parallel,
        yes=yes,
        sampling=(max_tokens, temperature, seed),
        limit=limit,
        tokenizer=tokenizer,
        out=out,
        runs=runs,
    )


@app.command("evaluate arena")
def evaluate_arena(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Two or more: runs, folders in Hugging Face layout, files of answers; none to rate --votes alone.",
            metavar="RUN|FOLDER|FILE",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Questions: .jsonl, .parquet, .csv or .tsv with prompt, or turns.")
    ] = None,
    votes: Annotated[
        list[Path] | None, typer.Option(help="Earlier votes, that count in the ratings too. Repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    limit: Limit = None,
    tokenizer: Tokenizer = None,
    out: Annotated[Path, typer.Option(help="Folder of answers, votes.jsonl, arena.json and arena.md.")] = Path("arena"),
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Vote on models' answers, blind, on a page of this machine; Elo and Bradley-Terry ratings come of it.

    Ctrl-C ends it; the same command continues where the votes end.
    """
    from windlass.cli.arena import run_arena

    run_arena(
        models or [],
        prompts,
        votes or [],
        port=port,
        sampling=(max_tokens, temperature, seed),
        limit=limit,
        tokenizer=tokenizer,
        out=out,
        runs=runs,
    )


@app.command("runs")
def list_runs(runs: Runs = DEFAULT_RUNS) -> None:
    """List what ran, with what result, and where."""
    from windlass.cli.runs import lines
    from windlass.cli.show import write

    for line in lines(runs):
        write(line)


@app.command()
def export(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="New folder.", metavar="DIR", show_default=False)],
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the LoRA adapters, as peft loads them.")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write a model in Hugging Face layout.

    config.json, safetensors and the tokenizer: what transformers loads. Adapters are merged.
    """
    from windlass.cli.text import export_run

    export_run(run, folder, runs=runs, adapter=adapter)


for command in (submit, status, logs, suspend, resume, cancel):
    app.command()(command)


@data.command("prepare")
def prepare_data(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs or URIs; or one job file.", metavar="SOURCE...", show_default=False),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder or URI of the corpus; needed unless the source is a job file.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="As spec.tokenizer: bytes, gpt2, cl100k_base, a file, ...")] = "gpt2",
    format: Annotated[str | None, typer.Option(help="Of all sources; by default each file's ending says it.")] = None,
    text_field: Annotated[
        str | None, typer.Option(help='Column that holds the text, or several: "{question} {answer}".')
    ] = None,
    validation_fraction: Annotated[float | None, typer.Option(help="Share of documents held out: 0.05.")] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Repair mojibake, normalise, drop control characters.")
    ] = False,
    deduplicate: Annotated[
        Literal["exact", "near"] | None, typer.Option(help="Remove copies, or also what is similar (MinHash LSH).")
    ] = None,
    decontaminate: Annotated[
        list[str] | None, typer.Option(help="Test set: documents with 13 of its words in a row go. Repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with a job's data.prepare: everything else.")] = None,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each processor.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster of this machine, whose CPUs do the work: auto, or HOST:PORT.", metavar="ADDRESS"
        ),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Make a corpus: of sources with --out, or that of a job file.

    One that is there, made of the same inputs, is left as it is; one that was interrupted goes on.
    """
    from windlass.cli.data import prepare_job, prepare_sources
    from windlass.cli.jobs import load

    if workers and ray:
        raise typer.BadParameter("--workers is for this machine; with --ray all CPUs of the cluster do the work")
    if out is None:
        if not sources or len(sources) > 1 or not sources[0].endswith((".yaml", ".yml")):
            raise typer.BadParameter("say where the corpus goes: --out URI; or give one job file", param_hint="--out")
        prepare_job(load(Path(sources[0]), overrides), runs, workers=workers, ray=ray)
        return
    values: dict[str, object] = {
        "format": format,
        "textField": text_field,
        "validationFraction": validation_fraction,
        "clean": {} if clean else None,
        "deduplicate": {None: None, "exact": {}, "near": {"near": {}}}[deduplicate],
        "decontaminate": decontaminate,
    }
    prepare_sources(
        sources or [],
        out,
        tokenizer=tokenizer,
        workers=workers,
        ray=ray,
        config=config,
        settings={name: value for name, value in values.items() if value is not None},
        overrides=overrides or [],
    )


@tokenizer.command("train")
def train_tokenizer(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, globs or URIs.", metavar="SOURCE...")],
    vocab_size: Annotated[int, typer.Option(min=257, help="Tokens, special ones included.")],
    out: Annotated[Path, typer.Option(help="New folder.", metavar="DIR")],
    format: Annotated[str | None, typer.Option(help="Of all sources; by default each file's ending says it.")] = None,
    text_field: Annotated[
        str | None, typer.Option(help='Column that holds the text, or several: "{question} {answer}".')
    ] = None,
    special: Annotated[
        list[str] | None, typer.Option(help="Name of a special token, beside <|endoftext|>. Repeatable.")
    ] = None,
) -> None:
    """Train a byte-pair encoding.

    Byte-level, in Hugging Face layout: tokenizer.json.
    """
    from windlass.cli.data import train

    train(sources, vocab_size, out, format=format, text_field=text_field, special=special or [])


@data.command("inspect")
def inspect_data(
    corpus: Annotated[str, typer.Argument(help="Folder or URI of a prepared corpus.", metavar="CORPUS")],
    samples: Annotated[int, typer.Option(min=0, help="Samples to show as the model sees them.")] = 2,
    sequence_length: Annotated[int, typer.Option(min=2, help="Tokens a sample.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the order of samples, as in training.seed.")] = 1337,
    verify: Annotated[bool, typer.Option("--verify", help="Check every byte against its hash.")] = False,
) -> None:
    """Show a corpus, and what the model sees of it."""
    from windlass.cli.data import inspect

    inspect(corpus, samples=samples, sequence_length=sequence_length, seed=seed, check=verify)


@app.command()
def version() -> None:
    """Show versions."""
    from windlass.cli.show import write
    from windlass.cli.versions import lines

    for line in lines():
        write(line)
