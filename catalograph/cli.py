"""The command line. A verb parses, calls the library and prints one result; heavy imports wait inside."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from catalograph.extract_verbs import estimate, extract
from catalograph.feature_verbs import export, probe
from catalograph.hub_verbs import pull, push
from catalograph.init_verb import init, schema
from catalograph.options import Config, Folder, Json, RunDir, Set, Verbose, load_run
from catalograph.redteam_verb import redteam
from catalograph.refresh_verbs import refresh, run, runs
from catalograph.rerank_verb import rerank
from catalograph.run_verbs import compare, newcomers, tune, worth
from catalograph.running import EXTRACTION, run_and_print, run_folder
from catalograph.terminal import configure_logging, quieten_libraries

EXIT_MISSING, EXIT_INVALID = 3, 5

STAGE_VERBS: Mapping[str, tuple[Sequence[str], str]] = {
    "extract": (
        EXTRACTION,
        "Captions and text embeddings into the feature store. Exits 7 if items were quarantined.",
    ),
    "prepare": (("prepare",), "Import, deduplicate and split the interactions."),
    "train": (("train",), "Train the retrievers."),
    "recommend": (("recommend",), "The top candidates of every user, to Parquet and to a TREC run."),
    "finetune": (("finetune",), "Fine-tune the reranker on out-of-fold candidate lists."),
    "rerank": (("rerank",), "Reorder the candidates."),
    "evaluate": (("evaluate",), "Metrics with intervals and paired differences on the test split."),
    "report": (("report",), "Write the HTML report of a run again."),
}
"""Verbs that run stages: which ones, and their help."""

_EPILOG = (
    "Exit codes: 0 ok, 1 internal, 2 usage or configuration, 3 missing prerequisite, 4 missing or unsafe "
    "input, 5 invalid data, 6 resources, 7 partial success (run and extract: all stages are done, and some "
    "items were quarantined within max_bad), 8 too many bad inputs, 9 training diverged, 10 run folder "
    "locked or of another configuration, 130 interrupted, 143 terminated."
)

Store = Annotated[Path | None, typer.Option("--store", help="Store of an extraction, instead of a run.")]

app = typer.Typer(
    name="catalograph",
    help="A catalogue in, ranked recommendations out, offline.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = any(a in ("-v", "--verbose") for a in arguments)
    configure_logging(verbose)
    quieten_libraries()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        _check_text(arguments)
        code = app(args=arguments, standalone_mode=False)
        return int(code or 0)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        # Usage errors and aborts of the option parser know how to show themselves.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            return int(error.exit_code)
        if type(error).__name__ == "Abort":
            return 130
        return _failed(error, "--json" in arguments, verbose)
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_text(arguments: Sequence[str]) -> None:
    # Bytes of a name that are no UTF-8 come as lone surrogates, which no record of a run could hold.
    for text in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            from extract.errors import ConfigError

            raise ConfigError(
                "C001", "an argument is no UTF-8", where=ascii(text), next_step="rename the file or folder"
            )


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(143)


def _failed(error: Exception, as_json: bool, verbose: bool) -> int:
    from extract.errors import CatalographError
    from extract.faults import exhausted

    error = exhausted(error)
    known = isinstance(error, CatalographError)
    code = error.exit_code if isinstance(error, CatalographError) else 1
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    text = str(error) if known else f"internal error: {type(error).__name__}: {error}"
    typer.echo(text, err=True)
    if not known and not verbose:
        typer.echo("  next:  run again with -v for the traceback (it is also in logs/run.jsonl)", err=True)
    if as_json:
        fields = ("code", "what", "where", "why", "next_step")
        described = {f: getattr(error, f, "") for f in fields} | {"text": text}
        typer.echo(json.dumps({"error": described, "exit_code": code}, ensure_ascii=False))
    return code


def _version(asked: bool) -> None:
    if asked:
        from catalograph import __version__

        typer.echo(f"catalograph {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A catalogue in, ranked recommendations out, offline."""


@app.command()
def demo(
    run_dir: Folder = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the shop and of everything drawn after it.")] = 0,
    items: Annotated[int, typer.Option(help="Items in the shop.")] = 1000,
    users: Annotated[int, typer.Option(help="Users of the shop.")] = 1500,
    hidden: Annotated[
        float,
        typer.Option(min=0, max=1, help="How strongly traits that no title mentions drive choices, 0 to 1."),
    ] = 1.0,
    sets: Set = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """The whole road on the embedded shop, offline; ends with the metrics and the report's path."""
    from catalograph.config_file import override_config
    from catalograph.demo import prepare_demo

    config = prepare_demo(run_dir, seed=seed, items=items, users=users, hidden=hidden)
    run_and_print(override_config(config, sets) if sets else config, run_dir, None, as_json)


def _stage_verb(verb: str) -> Callable[..., None]:
    """The function behind a verb that runs stages: they differ in the stages only."""

    def call(
        config: Config = None,
        sets: Set = None,
        run_dir: RunDir = None,
        as_json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        resolved = load_run(config, sets, run_dir)
        folder = run_folder(resolved, config, run_dir)
        run_and_print(resolved, folder, STAGE_VERBS[verb][0], as_json)

    return call


app.command()(run)
for _verb, (_, _help) in STAGE_VERBS.items():
    if _verb == "rerank":
        app.command(_verb)(rerank)
    else:
        app.command(_verb, help=_help)(extract if _verb == "extract" else _stage_verb(_verb))
app.command()(estimate)
app.command()(export)
app.command()(probe)
app.command()(push)
app.command()(pull)


app.command()(init)
app.command()(schema)


@app.command()
def doctor(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Where runs would be written.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """What this machine offers. Exits 3 if something needed is missing."""
    from catalograph.doctor import examine, findings

    checks = examine(run_dir)
    if as_json:
        typer.echo(json.dumps(findings(checks), ensure_ascii=False))
    else:
        from catalograph.console import print_checks

        print_checks(checks)
    if not findings(checks)["ok"]:
        raise typer.Exit(EXIT_MISSING)


@app.command()
def validate(
    config: Config = None,
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """Check the configuration and the headers of the data, without loading a model; all problems at once."""
    from catalograph.validate import check_inputs

    resolved = load_run(config, sets, None)
    check_inputs(resolved)
    summary = {"ok": True, "config": str(config), "fingerprint": resolved.fingerprint()}
    typer.echo(json.dumps(summary) if as_json else f"{config}: valid")


app.command()(refresh)
app.add_typer(runs, name="runs")
app.command()(newcomers)
app.command()(compare)
app.command()(tune)
app.command()(worth)
app.command()(redteam)


@app.command()
def verify(run_dir: RunDir = None, store: Store = None, as_json: Json = False) -> None:
    """Hash every declared output of a run, or every shard of a store, again. Exits 5 if one differs."""
    folder = _one_of(run_dir, store)
    if store is None:
        from catalograph.runs import verify as problems_of
    else:
        from catalograph.updating import verify_stores as problems_of
    problems = problems_of(folder)
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "problems": problems}, ensure_ascii=False))
    else:
        typer.echo("\n".join(problems) or f"{folder}: everything matches its hash")
    if problems:
        raise typer.Exit(EXIT_INVALID)


@app.command("hash")
def hash_(run_dir: RunDir = None, store: Store = None, as_json: Json = False) -> None:
    """The identity of a run's or a store's content: equal for equal bytes, whatever the times and logs."""
    folder = _one_of(run_dir, store)
    if store is None:
        from catalograph.runs import content_hash as hash_of
    else:
        from catalograph.updating import hash_stores as hash_of
    digest = hash_of(folder)
    typer.echo(json.dumps({"hash": digest}) if as_json else digest)


def _one_of(run_dir: Path | None, store: Path | None) -> Path:
    folder = run_dir or store
    if folder is None or (run_dir and store):
        raise typer.BadParameter("give --run-dir of a run or --store of an extraction")
    return folder
