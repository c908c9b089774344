import numpy as np
import pytest

from extract.features import FeatureTable
from recsys.knock_outs import KNOCK_OUTS, constant, noise, permuted

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
