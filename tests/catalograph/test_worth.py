"""Is captioning worth its price? The trial through the command line, and the rule of its answer."""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from catalograph.cli import main
from catalograph.worth import gains, stratified
from recsys import interactions_from, train

if TYPE_CHECKING:
    from conftest import World

ARMS = ["captions", "no captions", "foretold", "permuted", "noise", "constant"]


def asked(world: World, name: str, *arguments: str, **changes: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `catalograph worth`, which takes no run folder."""
    path, out, err = world.root / f"{name}.yaml", io.StringIO(), io.StringIO()
    path.write_text(yaml.safe_dump(world.config(rerank=None, **changes)))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["worth", "-c", str(path), *arguments])
    return code, out.getvalue(), err.getvalue()


def test_a_trial_measures_every_control_in_every_stratum_and_goes_on_where_it_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ["--work", str(world.root / "trial"), "--price", "2", "--json"]
    changes = {"worth": {"items": 60, "seeds": 2, "cold_share": 0.2}}
    fitted: list[Any] = []
    fit = train.fit

    def counted(*arguments: Any, **more: Any) -> Any:
        fitted.append(arguments)
        if len(fitted) == 7:
            raise KeyboardInterrupt
        return fit(*arguments, **more)

    monkeypatch.setattr(train, "fit", counted)

    assert asked(world, "trial", *work, **changes)[0] == 130
    code, out, err = asked(world, "trial", *work, **changes)
    assert code == 0, err
    # Six of twelve were kept; the seventh and those after it are made once.
    assert len(fitted) == 7 + 6
    found = json.loads(out)
    assert json.loads((world.root / "trial/worth.json").read_text()) == found
    assert found["sample"]["items"] == 60 and found["retriever"] == "lirdrec"
    assert {"all", "warm items", "cold items"} <= set(found["strata"])
    for row in found["strata"].values():
        assert list(row["means"]) == ARMS and list(row["gain_over"]) == ARMS[1:]
        for arm, gain in row["gain_over"].items():
            assert gain["gain"] == pytest.approx(row["means"]["captions"] - row["means"][arm])
            assert gain["low"] <= gain["gain"] <= gain["high"]
    assert found["whole_catalogue"]["items"] == 60 and found["whole_catalogue"]["cost"] is not None
    assert json.loads(asked(world, "trial", *work, **changes)[1])["strata"] == found["strata"]
    assert len(fitted) == 13


def values(mean: float, users: int = 400) -> NDArray[np.float64]:
    """Two seeds of users whose values alternate around a mean, so that differences have no noise."""
    return np.tile(np.array([mean - 0.01, mean + 0.01] * (users // 2)), (2, 1))


@pytest.mark.parametrize(
    ("captions", "none", "permuted", "answer"),
    [
        (0.30, 0.20, 0.20, "yes"),
        (0.2095, 0.20, 0.20, "no"),  # better by less than a twentieth, surely
        (0.30, 0.20, 0.30, "no"),  # captions of other items do as well
        (0.20, 0.30, 0.10, "no"),
    ],
)
def test_the_answer_follows_the_intervals(captions: float, none: float, permuted: float, answer: str) -> None:
    means = dict(zip(ARMS, (captions, none, 0.1, permuted, 0.1, 0.1), strict=True))
    measured = {arm: [{"all": row} for row in values(mean)] for arm, mean in means.items()}
    found = gains(measured, "all", 0.05)
    assert found["answer"] == answer
    assert found["least_gain"] == pytest.approx(0.05 * none)


def test_wide_intervals_leave_the_answer_open() -> None:
    rng = np.random.default_rng(0)
    measured = {arm: [{"all": rng.random(30)} for _ in range(2)] for arm in ARMS}
    assert gains(measured, "all", 0.05)["answer"] == "undecided"


@pytest.mark.parametrize("as_well", ["foretold", "noise", "constant"])
def test_a_control_that_does_as_well_means_no(as_well: str) -> None:
    means = dict.fromkeys(ARMS, 0.2) | {"captions": 0.3, as_well: 0.3}
    measured = {arm: [{"all": row} for row in values(mean)] for arm, mean in means.items()}
    assert gains(measured, "all", 0.05)["answer"] == "no"


def test_the_sample_has_as_many_of_each_third_as_there_are() -> None:
    # Choices by item 9, 5, 4, then nine items with one each: thirds of 27 choices are 1, 2 and 9 items.
    counts = [9, 5, 4, *[1] * 9, 0]
    items = [f"i{n:02d}" for n, c in enumerate(counts) for _ in range(c)]
    users = [f"u{k}" for c in counts for k in range(c)]
    whole = interactions_from(users, items, [f"i{n:02d}" for n in range(len(counts))])
    rows = stratified(whole, 6, 0)
    assert rows[:3].tolist() == [0, 1, 2] and len(rows) == 6 and 12 not in rows
    assert len(stratified(whole, 50, 0)) == 12


def test_without_captions_there_is_nothing_to_ask(world: World) -> None:
    code, _, err = asked(
        world,
        "bare",
        *("--work", str(world.root / "bare")),
        caption=None,
        features={"title": world.config()["features"]["title"]},
        retrievers={"popularity": {"model": "popularity"}},
        candidates={"k": 5},
        evaluate={"ks": [5]},
    )
    assert code == 2 and "error[C208]" in err
