"""Spoilt records of a finished run, and titles that are markup or formulas where a run writes them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hostile_shop import ITEMS, Case, configure, file, write_items


def run_folder_cases() -> Iterator[Case]:
    """Records of a finished run that were changed, cut or made by others."""
    whole = "run/stages/10-prepare"
    for name, path, data, verb, code, says in (
        ("a cut run.json", "run/run.json", b'{"format_ver', "verify", 5, "run.json: changed or unreadable"),
        (
            "a cut stage.json",
            f"{whole}/stage.json",
            b'{"outputs": [',
            "verify",
            5,
            "stage.json: changed or unreadable",
        ),
        ("a damaged stage is done again", f"{whole}/stage.json", b"\0\0\0", "prepare", 0, "is done again"),
        ("parts.json of others", f"{whole}/parts.json", b'{"x": 1}', "prepare", 10, "error[R104]"),
        ("a damaged configuration", "run/config.yaml", b"\t: [", "prepare", 10, "error[R108]"),
        ("a damaged memory of inputs", "run/inputs.json", b"[1, 2", "prepare", 0, "reused"),
        ("a memory of inputs that is a list", "run/inputs.json", b"[1, 2]", "prepare", 0, "reused"),
        ("a folder that is no run", "run/run.json", b"", "verify", 5, "run.json"),
        ("an output that is gone", f"{whole}/train.parquet", None, "verify", 5, "train.parquet: missing"),
        ("an output that is gone, to hash", f"{whole}/train.parquet", None, "hash", 5, "error[D113]"),
    ):

        def spoil(folder: Path, path: str = path, data: bytes | None = data) -> None:
            (folder / path).unlink()
            if data is not None:
                (folder / path).write_bytes(data)

        yield Case("run folder", name, verb, spoil, code, says, first="prepare")
    yield Case(
        "run folder",
        "another seed",
        "prepare",
        lambda f: None,
        10,
        "seed: 0 before, 1 now",
        ("--set", "seed=1"),
        first="prepare",
    )
    yield Case(
        "run folder", "a folder of other things", "prepare", file("run/holiday.jpg", b"x"), 10, "error[R103]"
    )


def output_cases() -> Iterator[Case]:
    """Titles that are markup or formulas, and where they end up."""
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    link = "javascript:alert(3)"

    def titles(folder: Path) -> None:
        write_items(
            folder, [row | {"title": evil if n % 2 else link} for n, row in enumerate(map(dict, ITEMS))]
        )
        configure(folder, caption=None, features=None)

    def escaped(folder: Path) -> str:
        page = (folder / "run" / "report" / "index.html").read_text()
        wrong = [
            bad for bad in ("<img src=x", "<script", 'href="javascript', "href='javascript") if bad in page
        ]
        wrong += [] if "Content-Security-Policy" in page and "default-src 'none'" in page else ["no policy"]
        return ", ".join(wrong) if wrong or "&lt;img src=x" in page else "the title is not there"

    yield Case(
        "markup", "titles that are scripts, in the report", "run", titles, 0, "index.html", check=escaped
    )

    def formulas(folder: Path) -> None:
        signs = ("=HYPERLINK(1)", "+1", "@x", "-2", "\t=1")
        write_items(folder, [row | {"title": signs[n % 5]} for n, row in enumerate(map(dict, ITEMS))])

    def as_written(folder: Path) -> str:
        left = [path.name for path in (folder / "run").rglob("*.csv")]
        return f"CSV was written: {left}" if left else ""

    yield Case(
        "formulas",
        "titles that are formulas: nothing written as CSV",
        "extract",
        formulas,
        0,
        "embed: 12 of 12",
        check=as_written,
    )
    yield Case(
        "formulas",
        "an export to CSV",
        "export",
        lambda folder: None,
        2,
        "unknown format csv",
        ("--format", "csv", "--to", "out"),
        first="extract",
    )
