"""The commands for jobs on a cluster: their options, and which module does what they say.

As in `windlass.cli.main`, what a command does is imported inside it.
"""

from typing import Annotated

import typer

from windlass.cli.options import JobFile, Overrides

Job = Annotated[str, typer.Argument(help="Name of a job.", metavar="JOB", show_default=False)]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Namespace; by default the job file's or the context's.", show_default=False
    ),
]
Context = Annotated[
    str | None, typer.Option(help="Context of the kubeconfig; by default the current one.", show_default=False)
]
Wait = Annotated[bool, typer.Option(help="Show the job until it is so.")]


def submit(
    file: JobFile,
    overrides: Overrides = None,
    namespace: Namespace = None,
    context: Context = None,
    watch: Annotated[bool, typer.Option(help="Show the job until it ends.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and change nothing.")] = False,
) -> None:
    """Train on a Kubernetes cluster.

    Creates the job, or changes the one of this name, and shows it until it ends. Ctrl-C leaves it running.
    """
    from windlass.cli.cluster.submit import submit as submit_job

    options = {"namespace": namespace, "context": context}
    raise typer.Exit(submit_job(file, overrides or [], **options, watch=watch, dry_run=dry_run))


def status(
    name: Annotated[str | None, typer.Argument(help="Name of a job.", metavar="JOB", show_default=False)] = None,
    namespace: Namespace = None,
    context: Context = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="List those of all namespaces.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="List with more columns.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show the job until it ends, as submit does.")] = False,
) -> None:
    """List the jobs of a cluster, or show one.

    Phase, progress, conditions, pods, and failures with the end of their logs. Runs of this machine: windlass runs.
    """
    from windlass.cli.cluster.connection import connect
    from windlass.cli.cluster.status import list_lines, show_lines
    from windlass.cli.cluster.submit import watch_job
    from windlass.cli.show import write

    cluster = connect(context, namespace)
    if watch and name is None:
        raise typer.BadParameter("needs the name of a job", param_hint="--watch")
    if watch and name is not None:
        raise typer.Exit(watch_job(cluster, name))
    for line in show_lines(cluster, name) if name else list_lines(cluster, everywhere=everywhere, wide=wide):
        write(line)


def logs(
    name: Job,
    namespace: Namespace = None,
    context: Context = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank.", show_default=False)] = None,
    head: Annotated[bool, typer.Option("--head", help="Only the head: the driver.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines of each.", show_default=False)] = None,
) -> None:
    """Print what the pods of a job on a cluster print.

    Each line after its pod; with --rank, the lines of one rank. Logs of this machine's runs are in their folders.
    """
    from windlass.cli.cluster.connection import connect
    from windlass.cli.cluster.logs import logs as print_logs

    if head and rank is not None:
        raise typer.BadParameter("give --head or --rank, not both", param_hint="--head")
    raise typer.Exit(print_logs(connect(context, namespace), name, rank=rank, head=head, follow=follow, tail=tail))


def suspend(name: Job, namespace: Namespace = None, context: Context = None, wait: Wait = True) -> None:
    """Pause a job on a cluster.

    It saves a checkpoint and releases its pods.
    """
    from windlass.cli.cluster.connection import connect
    from windlass.cli.cluster.lifecycle import suspend as suspend_job

    raise typer.Exit(suspend_job(connect(context, namespace), name, wait=wait))


def resume(name: Job, namespace: Namespace = None, context: Context = None, wait: Wait = True) -> None:
    """Continue a suspended job on a cluster.

    From its last checkpoint.
    """
    from windlass.cli.cluster.connection import connect
    from windlass.cli.cluster.lifecycle import resume as resume_job

    raise typer.Exit(resume_job(connect(context, namespace), name, wait=wait))


def cancel(
    name: Job,
    namespace: Namespace = None,
    context: Context = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a job on a cluster.

    Its storage is kept, unless the job says checkpoints.onDelete: Delete.
    """
    from windlass.cli.cluster.connection import connect
    from windlass.cli.cluster.lifecycle import cancel as cancel_job

    raise typer.Exit(cancel_job(connect(context, namespace), name, yes=yes))
