"""What a report shows, as plain values: no models, no files, no numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over users with its 95 % interval; low and high are None where none was computed."""

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """P-value of a difference, corrected for the other comparisons of its table."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One list of recommendations: its metrics, and its paired differences to the table's reference list."""

    name: str
    values: Mapping[str, Interval]
    """By column, such as ``ndcg@10``."""
    differences: Mapping[str, Interval] = field(default_factory=dict)
    """This list minus the reference, by column; empty for the reference itself."""
    description: str = ""
    """One line on how the list was made."""


@dataclass(frozen=True, slots=True)
class MetricTable:
    """Metrics of several lists on the same users."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[MetricRow]
    reference: str | None = None
    """Name of the row that differences are taken against."""
    note: str = ""
    """Number of users, split, how ties are broken."""
    detail: bool = False
    """For the report only: too long for a terminal."""


@dataclass(frozen=True, slots=True)
class Series:
    """A named line of (x, y) points; points that are not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines on common axes."""

    title: str
    series: Sequence[Series]
    x_label: str = "epoch"
    y_label: str = ""


@dataclass(frozen=True, slots=True)
class StageRow:
    """What a stage did: n_in = n_ok + n_quarantined; the absent ones are among the ok."""

    name: str
    seconds: float
    n_in: int | None = None
    n_ok: int | None = None
    n_absent: int | None = None
    n_quarantined: int | None = None
    note: str = ""
    """Such as ``reused``."""
    peak_mib: float | None = None
    """The most memory that the process had held when the stage was done, stages before it included."""
    n_bytes: int | None = None
    """Size of the results."""
    tokens: int | None = None
    """Tokens that a language model read."""


@dataclass(frozen=True, slots=True)
class Card:
    """An item as a person sees it."""

    item_id: str
    title: str
    caption: str | None = None
    picture: str | None = None
    """A URI from `catalograph.report.render.picture_uri`; anything else is not shown."""


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item at its place in a list."""

    card: Card
    rank: int
    """1-based rank in this list."""
    rank_before: int | None = None
    """1-based rank before reranking; None in the list before."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """By source; the sources' own scales."""
    is_truth: bool = False
    """Whether this is what the user chose in the part that was held out."""
    pulls: Mapping[str, float] = field(default_factory=dict)
    """By source, what it adds to the fused score that decides the place; empty if another order does."""


@dataclass(frozen=True, slots=True)
class UserExample:
    """One user's history and lists."""

    user_id: str
    history: Sequence[Card]
    before: Sequence[ListedItem]
    after: Sequence[ListedItem]
    """Empty where there is no reranker."""
    note: str = ""
    """Such as the rank of the held-out item before and after, or that it is not among the candidates."""
    reason: str = ""
    """Why this user is shown, such as ``drawn by lot``."""


@dataclass(frozen=True, slots=True)
class Headline:
    """One finding for a reader in a hurry."""

    label: str
    value: str
    sentence: str
    """What the value rests on: interval, users, what it is compared with."""
    verdict: str = ""
    """``better``, ``worse``, ``open``, or empty for what is no comparison."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the held-out items of some users."""

    name: str
    users: int
    share: float
    """Of the users with a held-out item, 0 to 1."""
    meaning: str


@dataclass(frozen=True, slots=True)
class MissedItem:
    """An item that people chose next without having been offered it."""

    card: Card
    wanted: int
    """Users who chose it next."""
    missed: int
    """Those of them among whose candidates it is not."""
    choices: int
    """Choices before the test split."""


@dataclass(frozen=True, slots=True)
class Shortfalls:
    """Where the lists fall short."""

    outcomes: Sequence[Outcome]
    missed: Sequence[MissedItem] = ()
    cold_note: str = ""
    """A sentence on items that nobody had chosen."""
    weakest: MetricTable | None = None
    """The groups with the lowest metrics."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Values of several runs, one column each."""

    caption: str
    names: Sequence[str]
    """The runs."""
    rows: Mapping[str, Sequence[object]]
    """By key one value per run; None where a run has none."""
    note: str = ""
    marked: bool = False
    """Whether values unlike the first run's stand out."""


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """An input that was set aside."""

    item_id: str
    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReportData:
    """A whole report."""

    title: str
    notice: str = ""
    """The first line, for what a reader must know before any number."""
    notes: Sequence[str] = ()
    """Sentences on protocol and limits."""
    headlines: Sequence[Headline] = ()
    metrics: Sequence[MetricTable] = ()
    shortfalls: Shortfalls | None = None
    differing: Sequence[SideBySide] = ()
    """For a comparison of runs."""
    curves: Sequence[Chart] = ()
    users: Sequence[UserExample] = ()
    history_note: str = ""
    """Such as that histories have no order and are a seeded sample."""
    stages: Sequence[StageRow] = ()
    quarantine: Sequence[QuarantineRow] = ()
    quarantine_total: int | None = None
    """Number of all quarantined inputs where `quarantine` holds the first ones only; None: it holds all."""
    config_yaml: str = ""
    """The configuration, redacted."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Versions, models, hashes."""
