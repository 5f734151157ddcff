"""The command line: parse, call one function, print.

Exit status: 0 done · 1 the job failed · 2 the job file is wrong · 3 done, with dead letters · 130 interrupted ·
143 ended by SIGTERM.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from ray_pipelines import __version__, tasks
from ray_pipelines.config import Job, split_inputs
from ray_pipelines.errors import ConfigError, RayPipelinesError, StorageError
from ray_pipelines.job_file import job_schema, read_job

if TYPE_CHECKING:
    from ray_pipelines.data.job import JobResult

__all__ = ["app", "main"]

EXIT_DONE, EXIT_WRONG, EXIT_DEAD_LETTERS, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 2, 3, 130, 143

EPILOG = (
    "Exit status: 0 done, 1 the job failed, 2 the job file is wrong, 3 done with dead letters, 130 interrupted, "
    "143 ended by SIGTERM."
)
ENDED_BY = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}
FIRST_STEPS = """\
[bold]First steps[/]

  ray-pipelines tasks image-classification         a task, with a job file
  ray-pipelines check job.yaml                     all that is wrong with it
  ray-pipelines plan job.yaml                      how fast, how long it takes
  ray-pipelines run job.yaml --set read.limit=100  results and a report

Job files, one for each task, and every setting: jobs/README.md. When things go wrong: README.md.

"""

app = typer.Typer(
    name="ray-pipelines",
    help="Any Hugging Face pipeline task over a dataset of any size on Ray.",
    epilog=FIRST_STEPS + EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

JobFile = Annotated[Path, typer.Argument(help="The job file (YAML).", metavar="JOB.yaml")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a setting of the job file, e.g. --set model.dtype=float16.", metavar="A.B=VALUE"
    ),
]


Function = TypeVar("Function", bound=Callable[..., None])


def command(name: str | None = None, epilog: str | None = EPILOG) -> Callable[[Function], Function]:
    """A command whose help is its docstring, in paragraphs that a terminal of any width wraps by itself."""

    def add(function: Function) -> Function:
        @functools.wraps(function)
        def interruptible(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except KeyboardInterrupt as interrupt:
                err.print("Interrupted.", highlight=False)
                raise typer.Exit(_status(interrupt)) from None

        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(name, epilog=epilog, help=text)(interruptible)
        return function

    return add


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """Any Hugging Face pipeline task over a dataset of any size on Ray."""
    if version:
        out.print(__version__)
        raise typer.Exit


@command()
def run(
    job_file: JobFile,
    settings: Settings = None,
    fail_on_dead_letters: Annotated[
        bool,
        typer.Option(
            "--fail-on-dead-letters/--allow-dead-letters",
            help="What a run with dead letters ends with: 3, or 0 with a line that says so (for schedulers, which take "
            "anything but 0 for a failure and would run it again).",
        ),
    ] = True,
) -> None:
    """Run a job: read, predict, write results and dead letters.

    Rows that fail become dead letters, and the job goes on (up to max_error_rate). The job runs on the Ray cluster that
    RAY_ADDRESS names or that this machine has, else on a local one. Whatever ends it, the same command goes on from
    there.

    Example: ray-pipelines run jobs/text-classification.yaml --set read.limit=100
    """
    job = _read(job_file, settings or [])
    from ray_pipelines.data.job import run_job
    from ray_pipelines.report.terminal import DEAD_LETTERS_LINE, filtered_stderr, live_progress

    try:
        with filtered_stderr() as console, live_progress(console) as display:
            result = run_job(job, display)
    except RayPipelinesError as error:
        _fail_of(job_file, error)
    except KeyboardInterrupt as interrupt:
        _interrupted(interrupt)
    _show(result, job)
    if not result.report.num_errors:
        raise typer.Exit(EXIT_DONE)
    if not fail_on_dead_letters:
        typer.echo(f"{DEAD_LETTERS_LINE}: {result.report.num_errors} in {job.write.path}/dead_letters/")
    raise typer.Exit(EXIT_DEAD_LETTERS if fail_on_dead_letters else EXIT_DONE)


@command()
def submit(
    job_file: JobFile,
    address: Annotated[
        str, typer.Option(help="The cluster's dashboard.", metavar="http://HEAD:8265", envvar="RAY_API_SERVER_ADDRESS")
    ],
    settings: Settings = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="Upload this folder, which holds the job file and what else the job needs: your own module, "
            "a small model. Unset, the job file alone is uploaded.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the Ray job; unset, Ray makes one.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log until the job has ended.")] = True,
    stop_on_interrupt: Annotated[
        bool,
        typer.Option("--stop-on-interrupt", help="Ctrl-C stops the job; unset, Ctrl-C leaves it running."),
    ] = False,
) -> None:
    """Run a job on a Ray cluster that is elsewhere, follow its log, and end as it ends.

    Uploads the job file and this version of ray_pipelines; the cluster's nodes need its dependencies (Ray in the same
    version, torch, transformers). Paths in the job file are seen from the cluster. A job file that holds a secret is
    refused: give HF_TOKEN and cloud credentials to the nodes. The cluster's token, where it wants one, is taken from
    RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, unless RAY_AUTH_MODE says disabled.

    Example: ray-pipelines submit job.yaml --address http://head:8265 --set workers.num_gpus=1

    A small model beside it: ray-pipelines submit jobs/digits.yaml --working-dir . --address http://head:8265

    The Ray job succeeds with dead letters too, as they are within max_error_rate; this command then ends with 3.
    """
    from ray_pipelines.data import submit as jobs

    try:
        client = jobs.connect(address)
        job_id = jobs.submit(client, job_file, settings or [], working_dir, name)
    except RayPipelinesError as error:
        _fail(error, error.exit_status)
    how = f"ray job logs --follow {job_id} --address {address}"
    err.print(f"Ray job [bold]{escape(job_id)}[/] is submitted.", highlight=False)
    if not wait:
        out.print(job_id, highlight=False)
        err.print(f"Follow it: {escape(how)}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_DONE)
    try:
        for piece in jobs.follow(client, job_id):
            typer.echo(piece, nl=False)
    except KeyboardInterrupt as interrupt:
        if stop_on_interrupt:
            client.stop_job(job_id)
            err.print("The job is being stopped. What it has written stays.", highlight=False)
        else:
            stop = f"ray job stop {job_id} --address {address}"
            err.print(f"The job goes on.\n  follow it: {escape(how)}\n  stop it:   {escape(stop)}", soft_wrap=True)
        raise typer.Exit(_status(interrupt)) from None
    details = client.get_job_info(job_id)
    err.print(f"Ray job {escape(job_id)}: {details.status.value}", highlight=False)
    raise typer.Exit(jobs.exit_status(client, job_id))


@command()
def retry(
    output: Annotated[str, typer.Argument(help="The output of a finished run: its write.path.", metavar="OUTPUT")],
    settings: Settings = None,
) -> None:
    """Run the dead letters of a finished run again; healed rows move to the results.

    The rows are read again from the input. Settings may change, except for what would not fit the other results. A
    retry that is interrupted loses nothing: start it again.

    Example: ray-pipelines retry s3://bucket/out --set batch.max_size=1
    """
    from ray_pipelines.data.retry import job_of_retry, retry_job
    from ray_pipelines.report.terminal import filtered_stderr, live_progress

    try:
        job = job_of_retry(output, settings or [])
        with filtered_stderr() as console, live_progress(console) as display:
            result = retry_job(job, display)
    except RayPipelinesError as error:
        _fail(error, error.exit_status)
    except KeyboardInterrupt as interrupt:
        _interrupted(interrupt)
    if result is None:
        out.print(f"{escape(output)} has no dead letters.")
        raise typer.Exit(EXIT_DONE)
    _show(result, job)
    raise typer.Exit(EXIT_DEAD_LETTERS if result.report.num_errors else EXIT_DONE)


@command()
def check(job_file: JobFile, settings: Settings = None) -> None:
    """Check a job without running it: settings, parameters, columns, folders.

    All problems come in one message, with the nearest name for each misspelled one. Starts neither Ray nor a model.

    Example: ray-pipelines check job.yaml --set inputs.text=review
    """
    job = _read(job_file, settings or [])
    from ray_pipelines.data.job import check_job

    try:
        source = check_job(job)
    except RayPipelinesError as error:
        _fail_of(job_file, error)
    num_bytes = sum(file.num_bytes for file in source.files)
    size = f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e5 else f"{num_bytes:,} bytes"
    out.print(f"[green]{escape(str(job_file))} is fine.[/]")
    out.print(f"  reads  {len(source.files):,} {source.read_format} file(s), {size}")
    for name, part in job.parts.items():
        columns = ", ".join(f"{field} ← {column}" for field, column in split_inputs(source.inputs[name])[0].items())
        line = f"  runs   {part.task} with {part.model.name or 'the default model'} ({columns}) → {name}"
        out.print(escape(line))
    out.print(escape(f"  writes {job.write.format} to {job.write.path}"))


@command()
def plan(
    job_file: JobFile,
    settings: Settings = None,
    rows: Annotated[int, typer.Option(help="Rows to run.", min=1, max=100_000)] = 256,
) -> None:
    """Say what a job would do and take, from running some of its rows: speed, time, GPU-hours, memory.

    Loads the model on one worker of the planned size (on the cluster that RAY_ADDRESS names or that this machine has,
    else here), and writes nothing to the output. A run of the same job on this machine then reports how right it was.

    Example: ray-pipelines plan job.yaml --set workers.num_gpus=1 --rows 1000
    """
    job = _read(job_file, settings or [])
    from ray_pipelines.data.plan import plan_job
    from ray_pipelines.report.plan_table import plan_table, sample_table
    from ray_pipelines.report.terminal import filtered_stderr

    try:
        with filtered_stderr():
            found = plan_job(job, rows)
    except RayPipelinesError as error:
        _fail_of(job_file, error)
    out.print(sample_table(found))
    out.print(plan_table(found))


@command("serve", epilog="Ends with Ctrl-C; exit status 1 if it cannot start, 2 if the file is wrong.")
def serve_endpoint(
    job_file: JobFile,
    settings: Settings = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8000", min=1, max=65535)] = None,
) -> None:
    """Serve the model of a job file over HTTP: Hugging Face's Inference API, and OpenAI's where the task has a place.

    read, write and inputs of the file are left aside. Keys that clients must send stand in RAY_PIPELINES_API_KEYS. If
    Serve runs on the cluster already, the endpoint answers where that listens.

    Example: ray-pipelines serve jobs/text-classification.yaml --set serve.replicas=2
    """
    from ray_pipelines.serve.config import read_serving

    try:
        serving = read_serving(job_file, settings or [])
    except ConfigError as error:
        _fail(error, error.exit_status, f"{job_file}: ")
    from ray_pipelines.report.terminal import filtered_stderr
    from ray_pipelines.serve.starting import run_until_interrupted

    out.print(f"Starting {serving.task} with {escape(serving.model.name or 'the default model')} …")

    def answers(url: str) -> None:
        out.print(f"[green]Answers at {url}[/]; {url}/info says what it takes. Ctrl-C ends it.", soft_wrap=True)
        out.print(
            f'  InferenceClient("{url}") of huggingface_hub, or curl {url} -d \'{{"inputs": …}}\'', highlight=False
        )

    try:
        with filtered_stderr():
            run_until_interrupted(serving, host, port, answers)
    except RayPipelinesError as error:
        _fail(error, error.exit_status)


@command("tasks", epilog=None)
def show_tasks(
    name: Annotated[str | None, typer.Argument(help="A task, to see its inputs, parameters and result.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The list as a Markdown table.")] = False,
) -> None:
    """List the tasks, or show one: its inputs, parameters, result, and a job file to start from.

    Example: ray-pipelines tasks zero-shot-classification
    """
    from rich.table import Table

    from ray_pipelines.reference import task_page, task_table

    if markdown:
        typer.echo(task_table())
        return
    if name is None:
        table = Table("task", "what it gives", "inputs", "result")
        for task in map(tasks.get, tasks.names()):
            aliases = f" ({', '.join(task.aliases)})" if task.aliases else ""
            table.add_row(
                task.name + aliases, task.summary, ", ".join(f.name for f in task.inputs), task.result_description
            )
        out.print(table)
        out.print("One of them in full: ray-pipelines tasks NAME", highlight=False)
        return
    try:
        task = tasks.get(name)
    except ConfigError as error:
        _fail(error, EXIT_WRONG)
    out.print(task_page(task))


@command(epilog=None)
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown tables, to read.")] = False,
) -> None:
    """Print the JSON schema of job files: every setting with its meaning, type and default.

    An editor with YAML support completes and checks a job file that begins with
    # yaml-language-server: $schema=job.schema.json

    Example: ray-pipelines schema > job.schema.json
    """
    from ray_pipelines.reference import job_reference

    typer.echo(job_reference() if markdown else json.dumps(job_schema(), indent=2))


def _read(job_file: Path, settings: list[str]) -> Job:
    """The job, valid by itself; ends the command with all problems otherwise."""
    try:
        return read_job(job_file, settings)
    except ConfigError as error:
        _fail(error, EXIT_WRONG, f"{job_file}: ")


def _show(result: JobResult, job: Job) -> None:
    from ray_pipelines.report.terminal import prediction_table, rows_to_print, summary_table

    try:
        first = result.first_results(5)
    except StorageError as error:
        # The run is done, whether it can be looked at or not.
        err.print(escape(str(error)), soft_wrap=True, highlight=False)
        first = None
    if first is not None:
        out.print(prediction_table(rows_to_print(first)))
    out.print(summary_table(result.report, job.write.path))


def _fail(error: RayPipelinesError, status: int, prefix: str = "") -> NoReturn:
    lines = error.problems if isinstance(error, ConfigError) else (str(error),)
    for line in lines:
        where = "" if line.startswith(("--set", prefix.removesuffix(": "))) else prefix
        err.print(f"[red]error:[/] {escape(where + line)}", soft_wrap=True, highlight=False)
    raise typer.Exit(status)


def _fail_of(job_file: Path, error: RayPipelinesError) -> NoReturn:
    """Ends the command; what is wrong with a job file is told with its name."""
    _fail(error, error.exit_status, f"{job_file}: " if isinstance(error, ConfigError) else "")


def _interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    err.print("Interrupted. What is written stays; the same command goes on from here.", highlight=False)
    raise typer.Exit(_status(interrupt))


def _status(interrupt: KeyboardInterrupt) -> int:
    return ENDED_BY[interrupt.args[0] if interrupt.args else signal.SIGINT]


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Ends a command as Ctrl-C does; a second signal does not wait until Ray has ended."""
    for each in ENDED_BY:
        signal.signal(each, lambda number, frame: os._exit(ENDED_BY[signal.Signals(number)]))
    raise KeyboardInterrupt(number)


def main() -> None:
    """The entry point of the `ray-pipelines` command."""
    for number in ENDED_BY:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    app()
