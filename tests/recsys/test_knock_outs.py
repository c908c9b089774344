import numpy as np
import pytest

from extract.features import FeatureTable
from recsys.knock_outs import KNOCK_OUTS, constant, foretold, noise, permuted, ridge

RNG = np.random.default_rng(0)
IDS = tuple(f"i{n}" for n in range(200))
TABLE = FeatureTable(
    IDS, (RNG.normal(size=(200, 3)) * [1, 5, 0] + [0, 2, 7]).astype(np.float32), RNG.random(200) < 0.8
)


@pytest.mark.parametrize("name", KNOCK_OUTS)
def test_a_control_keeps_who_has_a_vector_and_is_fixed_by_its_seed(name: str) -> None:
    made, again, other = (KNOCK_OUTS[name](TABLE, seed) for seed in (0, 0, 1))
    assert made.ids == TABLE.ids and np.array_equal(made.present, TABLE.present)
    assert made.content_hash() == again.content_hash()
    assert (made.content_hash() == other.content_hash()) == (name == "constant")
    assert made.content_hash() != TABLE.content_hash()


def test_permuting_deals_the_same_vectors_out_to_items_that_had_one() -> None:
    made, there = permuted(TABLE, 0), TABLE.present
    assert sorted(map(tuple, made.matrix[there].tolist())) == sorted(map(tuple, TABLE.matrix[there].tolist()))
    assert (made.matrix[there] == TABLE.matrix[there]).all(axis=1).mean() < 0.05


def test_noise_has_the_mean_and_deviation_of_each_column() -> None:
    rows, real = noise(TABLE, 0).matrix[TABLE.present], TABLE.matrix[TABLE.present]
    assert rows.mean(axis=0) == pytest.approx(real.mean(axis=0), abs=1.2)
    assert rows.std(axis=0) == pytest.approx(real.std(axis=0), rel=0.2)
    assert abs(np.corrcoef(rows[:, 0], real[:, 0])[0, 1]) < 0.25


def test_a_constant_is_the_mean_of_the_vectors_there_are() -> None:
    made = constant(TABLE, 0).matrix[TABLE.present]
    assert np.ptp(made, axis=0).tolist() == [0, 0, 0]
    assert made[0] == pytest.approx(TABLE.matrix[TABLE.present].mean(axis=0), rel=1e-5)


def test_what_others_say_is_foretold_and_what_only_the_table_knows_is_not() -> None:
    x = FeatureTable(IDS, RNG.normal(size=(200, 4)).astype(np.float32), RNG.random(200) < 0.95)
    said = x.matrix @ RNG.normal(size=(4, 2)) + 3
    own = RNG.normal(size=(200, 2))
    table = FeatureTable(IDS, np.concatenate([said, own], axis=1).astype(np.float32), TABLE.present)
    made = foretold(table, [x], seed=0)
    there = table.present & x.present
    assert made.matrix[there, :2] == pytest.approx(table.matrix[there, :2], abs=0.5)
    assert np.abs(made.matrix[there, :2] - table.matrix[there, :2]).mean() < 0.1
    assert abs(np.corrcoef(made.matrix[there, 2], table.matrix[there, 2])[0, 1]) < 0.3
    assert made.matrix[there, 2].std() < 0.5
    assert np.array_equal(made.present, table.present)
    assert np.array_equal(made.matrix[~table.present], table.matrix[~table.present])


def test_a_vector_is_foretold_without_having_seen_it() -> None:
    x = FeatureTable(IDS, RNG.normal(size=(200, 3)).astype(np.float32))
    table = FeatureTable(IDS, x.matrix[:, :1] * 2)
    changed = table.matrix.copy()
    changed[17] = 1e3
    before, after = (foretold(FeatureTable(IDS, m), [x], seed=0).matrix[17] for m in (table.matrix, changed))
    assert before == pytest.approx(after)


def test_ridge_is_the_textbook_solution_at_the_strength_that_validates_best() -> None:
    x, asked = RNG.normal(size=(40, 3)) + 5, RNG.normal(size=(6, 3)) + 5
    y = x @ RNG.normal(size=(3, 2)) + 0.5 * RNG.normal(size=(40, 2))
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    found = {}
    for strength in np.geomspace(1e-4, 1e2, 13) * (np.linalg.svd(a, compute_uv=False) ** 2).mean():
        hat = a @ np.linalg.solve(a.T @ a + strength * np.eye(3), a.T)
        error = ((b - hat @ b) ** 2).sum() / (1 - np.trace(hat) / 40) ** 2
        weights = np.linalg.solve(a.T @ a + strength * np.eye(3), a.T @ b)
        found[error] = (asked - x.mean(axis=0)) @ weights + y.mean(axis=0)
    assert ridge(x, y, asked) == pytest.approx(found[min(found)], rel=1e-4)
