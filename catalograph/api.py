"""The verbs as functions, for notebooks and programs: a configuration in, paths and numbers out.

Each does what the verb of its name does, in the same run folders, and raises subclasses of
`extract.errors.CatalographError`. Some have another name than their verb, because a module has that one:
`write_report`, `check_config` (validate), `draft_config` (init), `try_captions` (worth), `content_hash`
(hash), `recommend_newcomers`, `run_demo`. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalograph.comparison import compare_runs
from catalograph.config import RunConfig
from catalograph.config_file import build_config, load_config, override_config
from catalograph.drafting import draft_config as draft_config
from catalograph.feature_files import export_choices as written_choices
from catalograph.feature_files import export_run, probe_run
from catalograph.hub import pull as pull
from catalograph.hub import push as push
from catalograph.progress import Progress
from catalograph.running import EXTRACTION, run_folder
from catalograph.runs import content_hash as content_hash
from catalograph.runs import verify as verify
from catalograph.stages import STAGES, Stage, run_stages
from catalograph.stages import RunSummary as RunSummary
from catalograph.terminal import quieten_libraries
from catalograph.validate import check_inputs
from catalograph.workplace import Extraction
from extract.probe import Probe

Where = str | Path

Source = RunConfig | Mapping[str, Any] | str | Path
"""A configuration, its plain values, its YAML file, or the folder of a run that holds one."""
Settings = Mapping[str, Any]
"""Values by dotted key, as ``--set`` has them: ``{"candidates.k": 20}``."""


def load(source: Source, settings: Settings | None = None) -> RunConfig:
    """The configuration of a file, a run folder or plain values, with `settings` applied.

    Raises:
        ConfigError: C001 with every problem.
        UnsafeInput: U102, no such file.
    """
    sets = _sets(settings)
    if isinstance(source, RunConfig):
        return override_config(source, sets) if sets else source
    if isinstance(source, Mapping):
        return build_config(source, sets)
    path = Path(source)
    return load_config(path / "config.yaml" if (path / "run.json").is_file() else path, sets)


def check_config(source: Source, settings: Settings | None = None) -> RunConfig:
    """`load`, and a look at the headers of the data; no model is loaded.

    Raises:
        UnsafeInput: U103, an input is missing; InvalidData: D111, a column is.
    """
    config = load(source, settings)
    check_inputs(config)
    return config


def run(
    source: Source, run_dir: Where | None = None, settings: Settings | None = None, *,
    table: Mapping[str, Stage] = STAGES,
) -> RunSummary:  # fmt: skip
    """All stages, skipping what is done.

    Args:
        source: the configuration; a run folder goes on where it is.
        run_dir: the run folder; None: that of the configuration, or `runs/NAME-HASH`.
        settings: values by dotted key, over those of `source`.
        table: the stages; `STAGES` with more of them, or others in their place.

    Returns:
        Where everything is: `lists` and `report` are paths, `metrics` means by list and metric on test.
    """
    return _run(source, run_dir, settings, None, table=table)


def extract(
    source: Source, run_dir: Where | None = None, settings: Settings | None = None, *,
    store: Where | None = None,
) -> RunSummary:  # fmt: skip
    """Captions and vectors; with `store`, taken from and kept in a folder that outlives runs.

    The files are ``summary.path("caption", "captions.parquet")`` and ``summary.path("embed",
    "NAME.safetensors")``, which `extract.features.FeatureTable.load` reads: ids [I], matrix [I, D], mask [I].
    """
    how = None if store is None else Extraction(store=Path(store))
    return _run(source, run_dir, settings, EXTRACTION, how)


def update_store(
    source: Source, store: Where, settings: Settings | None = None, *,
    part: tuple[int, int] = (0, 1), merge: Sequence[Where] = (),
) -> dict[str, Any]:  # fmt: skip
    """Bring a store up to date with the catalogue; only what is new or changed reaches a model.

    Args:
        source: the configuration.
        store: the folder.
        settings: values by dotted key.
        part: ``(i, n)``, i from 0: work on every n-th bucket only.
        merge: stores of parts to take shards from.

    Returns:
        By stage the counts in, ok, absent, quarantined, as ``extract --update --json`` prints them.
    """
    from catalograph.updating import update_store as update

    quieten_libraries()
    how = Extraction(Path(store), part, tuple(map(Path, merge)))
    with Progress() as progress:
        return update(load(source, settings), how, EXTRACTION, progress)


def prepare(source: Source, run_dir: Where | None = None, settings: Settings | None = None) -> RunSummary:
    """Import, deduplicate and split the interactions: ``path("prepare", "train.parquet")`` and so on."""
    return _run(source, run_dir, settings, ("prepare",))


def train(source: Source, run_dir: Where | None = None, settings: Settings | None = None) -> RunSummary:
    """Fit the retrievers."""
    return _run(source, run_dir, settings, ("train",))


def recommend(source: Source, run_dir: Where | None = None, settings: Settings | None = None) -> RunSummary:
    """The top candidates of every user, in `lists`; `recsys.Candidates.from_parquet` reads them [U, K]."""
    return _run(source, run_dir, settings, ("recommend",))


def finetune(source: Source, run_dir: Where | None = None, settings: Settings | None = None) -> RunSummary:
    """Train the reranker on out-of-fold lists; its weights are in ``path("finetune", "adapter")``."""
    return _run(source, run_dir, settings, ("finetune",))


def rerank(source: Source, run_dir: Where | None = None, settings: Settings | None = None) -> RunSummary:
    """Reorder the candidates; `lists` is then the gated or the reranked file."""
    return _run(source, run_dir, settings, ("rerank",))


def evaluate(source: Source, run_dir: Where | None = None, settings: Settings | None = None) -> RunSummary:
    """Metrics on the test split: `metrics` has means by list and metric, `evaluation` intervals, groups."""
    return _run(source, run_dir, settings, ("evaluate",))


def refresh(
    come_from: Where, run_dir: Where, source: Source | None = None, settings: Settings | None = None, *,
    full: bool = False,
) -> RunSummary:  # fmt: skip
    """Lists for today's catalogue and choices by the models of the run `come_from`, in a new folder.

    `source` is that run's configuration where it is not given; ``full``: do everything anew but the models.
    """
    from catalograph.refreshing import refresh as refreshed

    quieten_libraries()
    config = load(come_from if source is None else source, settings)
    with Progress() as progress:
        return refreshed(config, Path(run_dir), Path(come_from), full=full, progress=progress)


def write_report(source: Source, run_dir: Where | None = None, settings: Settings | None = None) -> Path:
    """Write the HTML page of a run again, and return it."""
    summary = _run(source, run_dir, settings, ("report",))
    if summary.report is None:
        raise FileNotFoundError(f"{summary.folder} has no report")
    return summary.report


def run_demo(run_dir: Where, settings: Settings | None = None, **shop: Any) -> RunSummary:
    """The whole road on the drawn shop; `shop` may set seed, items, users and hidden, as the verb does."""
    from catalograph.demo import prepare_demo

    return _run(prepare_demo(Path(run_dir), **shop), run_dir, settings, None)


def estimate(
    source: Source, settings: Settings | None = None, *, seconds: float = 20.0, price: float | None = None
) -> dict[str, Any]:
    """What `extract` will take: items per second, hours, GiB and, with the price of an hour, money."""
    from catalograph.estimating import estimate as estimated

    quieten_libraries()
    with Progress() as progress:
        return estimated(load(source, settings), seconds, price, progress)


def tune(
    source: Source, run_dir: Where | None = None, settings: Settings | None = None, *,
    retrievers: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Search for better settings on validation; by retriever the metric, its values, the settings found."""
    from catalograph.tuning import tune as search

    quieten_libraries()
    config = load(source, settings)
    with Progress() as progress:
        return search(config, _folder(source, config, run_dir), tuple(retrievers), progress)


def try_captions(
    source: Source, work: Where, settings: Settings | None = None, *, price: float | None = None
) -> dict[str, Any]:
    """Whether captions are worth their price, on a sample kept in `work`: `answer` is yes, no, undecided."""
    from catalograph.worth import worth

    quieten_libraries()
    Path(work).mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        return worth(load(source, settings), Path(work), price, progress)


def compare(
    runs: Sequence[Where], against: Sequence[Where], *, listed: str = "retrieved",
    other: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A list of several evaluated runs (seeds) against another: by metric the difference and its interval."""
    return compare_runs([Path(r) for r in runs], listed, [Path(r) for r in against], other or listed)


def recommend_newcomers(run_dir: Where, histories: Where, out: Where) -> Path:
    """Lists of a finished run for people it never saw, by their histories; a row per user and place."""
    from catalograph.newcomers import recommend_newcomers as recommended

    quieten_libraries()
    recommended(Path(run_dir), Path(histories), Path(out), as_json=False)
    return Path(out)


def rerank_search(
    requests: Where, model: str, out: Where, settings: Settings | None = None, *,
    adapter: Where | None = None,
) -> Path:  # fmt: skip
    """Reorder search results in RankLLM's form with a language model; `out` is a TREC run, or .parquet.

    `settings` are keys of the section `rerank`, such as ``{"inference.window": 20}``.
    """
    from catalograph.searching import rerank_results, search_settings
    from rerank.search import read_requests

    quieten_libraries()
    trained, how = None if adapter is None else Path(adapter), search_settings(model, _sets(settings))
    rerank_results(read_requests(Path(requests)), how, Path(out), adapter=trained)
    return Path(out)


def export(
    run_dir: Where, to: Where, format: str = "parquet", *, features: Sequence[str] | None = None,
    missing: str = "mask",
) -> list[Path]:  # fmt: skip
    """A run's features as ``mmrec`` arrays, ``parquet`` or a ``dataset``; the files that were written."""
    return list(export_run(Path(run_dir), Path(to), format, names=features, missing=missing))


def export_choices(run_dir: Where, to: Where, format: str, *, name: str = "shop") -> list[Path]:
    """A run's split as ``recbole`` or ``mmrec`` files or ``qrels``; the files that were written."""
    return written_choices(Path(run_dir), Path(to), format, name)


def probe(
    run_dir: Where,
    attribute: str,
    *,
    features: Sequence[str] | None = None,
    separator: str | None = None,
) -> dict[str, Probe]:
    """How well each feature predicts a column of the catalogue, beside permuted labels."""
    return dict(probe_run(Path(run_dir), attribute, names=features, separator=separator))


def _sets(settings: Settings | None) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]


def _run(
    source: Source, run_dir: Where | None, settings: Settings | None, stages: Sequence[str] | None,
    extraction: Extraction | None = None, table: Mapping[str, Stage] = STAGES,
) -> RunSummary:  # fmt: skip
    quieten_libraries()
    config = load(source, settings)
    with Progress() as progress:
        return run_stages(config, _folder(source, config, run_dir), stages, progress, extraction, table=table)


def _folder(source: Source, config: RunConfig, run_dir: Where | None) -> Path:
    """As the command line chooses it; a source that is a run folder is that folder."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and run_dir is None and (path / "run.json").is_file():
        return path
    return run_folder(config, path, None if run_dir is None else Path(run_dir))
