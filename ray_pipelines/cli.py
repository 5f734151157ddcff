"""The command line: parse, call one function, print.

Exit status: 0 done · 1 the job failed · 2 the job file is wrong · 3 done, with dead letters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ray_pipelines import __version__, tasks
from ray_pipelines.config import Job, split_inputs
from ray_pipelines.errors import ConfigError, RayPipelinesError
from ray_pipelines.job_file import job_schema, read_job

if TYPE_CHECKING:
    from ray_pipelines.data.job import JobResult

__all__ = ["app", "main"]

EXIT_DONE, EXIT_FAILED, EXIT_WRONG, EXIT_DEAD_LETTERS = 0, 1, 2, 3

EPILOG = "Exit status: 0 done, 1 the job failed, 2 the job file is wrong, 3 done with dead letters."

app = typer.Typer(
    name="ray-pipelines",
    help="Any Hugging Face pipeline task over a dataset of any size on Ray.",
    epilog=EPILOG,
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


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """Any Hugging Face pipeline task over a dataset of any size on Ray."""
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command(epilog=EPILOG)
def run(job_file: JobFile, settings: Settings = None) -> None:
    """Run a job: read, predict, write results and dead letters.

    Rows that fail become dead letters, and the job goes on (up to max_error_rate). The job runs on the Ray cluster that
    RAY_ADDRESS names or that this machine has, else on a local one.

    Example: ray-pipelines run jobs/text-classification.yaml --set read.limit=100
    """
    job = _checked(job_file, settings or [])
    from ray_pipelines.data.job import run_job
    from ray_pipelines.report.terminal import filtered_stderr, live_progress

    try:
        with filtered_stderr() as console, live_progress(console) as display:
            result = run_job(job, display)
    except ConfigError as error:
        _fail(error, EXIT_WRONG)
    except RayPipelinesError as error:
        _fail(error, EXIT_FAILED)
    _show(result, job)
    raise typer.Exit(EXIT_DEAD_LETTERS if result.report.num_errors else EXIT_DONE)


@app.command(epilog=EPILOG)
def check(job_file: JobFile, settings: Settings = None) -> None:
    """Check a job without running it: settings, parameters, columns, folders.

    All problems come in one message, with the nearest name for each misspelled one. Starts neither Ray nor a model.
    """
    job = _checked(job_file, settings or [])
    from ray_pipelines.data.job import check_job

    source = check_job(job)
    size_mb = sum(file.num_bytes for file in source.files) / 1e6
    columns = ", ".join(f"{field} ← {column}" for field, column in split_inputs(source.inputs)[0].items())
    out.print(f"[green]{escape(str(job_file))} is fine.[/]")
    out.print(f"  reads  {len(source.files):,} {source.read_format} file(s), {size_mb:,.1f} MB ({columns})")
    out.print(f"  runs   {job.task} with {job.model.name or 'the default model'}")
    out.print(f"  writes {job.write.format} to {job.write.path}")


@app.command("tasks")
def show_tasks(
    name: Annotated[str | None, typer.Argument(help="A task, to see its inputs, parameters and result.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The list as a Markdown table.")] = False,
) -> None:
    """List the tasks, or show one: its inputs, parameters, result and an example."""
    from rich.table import Table

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
        return
    try:
        task = tasks.get(name)
    except ConfigError as error:
        _fail(error, EXIT_WRONG)
    out.print(f"[bold]{task.name}[/]: {task.summary}")
    if task.aliases:
        out.print(f"Also called {', '.join(task.aliases)}.")
    inputs = Table("input", "modality", "required", "what it is", title="inputs", title_justify="left")
    for field in task.inputs:
        inputs.add_row(field.name, field.modality, "yes" if field.required else "", escape(field.description))
    out.print(inputs)
    parameters = Table("parameter", "type", "default", "what it does", title="parameters", title_justify="left")
    for parameter, info in task.parameters.model_fields.items():
        parameters.add_row(
            parameter,
            escape(_type_name(info.annotation)),
            escape(json.dumps(info.default)),
            escape(info.description or ""),
        )
    out.print(parameters)
    assert task.result_type is not None
    out.print(f"[bold]result[/]: {escape(task.result_description)}")
    out.print(f"  Arrow: {escape(str(task.result_type(task.parameters())))}")
    out.print(f"[bold]example[/]: jobs/{task.name.partition('_')[0]}.yaml")


def task_table() -> str:
    """The tasks as the Markdown table that stands in the README."""
    lines = ["| task | what it gives | inputs | a result |", "|---|---|---|---|"]
    for task in map(tasks.get, tasks.names()):
        aliases = f" (also `{'`, `'.join(task.aliases)}`)" if task.aliases else ""
        inputs = ", ".join(f"`{field.name}`" if field.required else f"[`{field.name}`]" for field in task.inputs)
        result = task.result_description.replace("|", "\\|")
        lines.append(f"| [`{task.name}`](jobs/{task.name}.yaml){aliases} | {task.summary} | {inputs} | {result} |")
    return "\n".join(lines)


@app.command()
def schema() -> None:
    """Print the JSON schema of job files, for editors and checks elsewhere."""
    typer.echo(json.dumps(job_schema(), indent=2))


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "null").replace("None", "null")


def _checked(job_file: Path, settings: list[str]) -> Job:
    """The job, valid and looked at; ends the command with all problems otherwise."""
    try:
        job = read_job(job_file, settings)
        from ray_pipelines.data.job import check_job

        check_job(job)
        return job
    except ConfigError as error:
        _fail(error, EXIT_WRONG, f"{job_file}: ")
        raise AssertionError from error


def _show(result: JobResult, job: Job) -> None:
    from ray_pipelines.report.terminal import prediction_table, summary_table

    first = result.first_results(5)
    if first is not None:
        out.print(prediction_table(first.to_pylist()))
    out.print(summary_table(result.report, job.write.path))


def _fail(error: RayPipelinesError, status: int, prefix: str = "") -> None:
    lines = error.problems if isinstance(error, ConfigError) else (str(error),)
    for line in lines:
        err.print(f"[red]error:[/] {escape(prefix + line)}", soft_wrap=True, highlight=False)
    raise typer.Exit(status)


def main() -> None:
    """The entry point of the `ray-pipelines` command."""
    app()
