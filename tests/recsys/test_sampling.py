import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import sparse

from extract.errors import InvalidData
from recsys.sampling import NegativeSampler

SEEN = hnp.arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(2, 9)))


@given(seen=SEEN, seed=st.integers(0, 99))
def test_a_negative_is_never_a_seen_or_a_cold_item(seen: NDArray[np.bool_], seed: int) -> None:
    sampler = NegativeSampler(sparse.csr_array(seen.astype(np.float32)))
    users = np.repeat(np.arange(len(seen), dtype=np.int32), 30)
    users = users[sampler.has_negative(users)]
    drawn = sampler.draw(users, np.random.default_rng(seed))
    assert not seen[users, drawn].any()
    assert seen[:, drawn].any(axis=0).all()


@given(seen=SEEN)
def test_users_without_a_negative_are_those_who_chose_every_chosen_item(seen: NDArray[np.bool_]) -> None:
    sampler = NegativeSampler(sparse.csr_array(seen.astype(np.float32)))
    expected = [bool((seen.any(axis=0) & ~row).any()) for row in seen]
    assert sampler.has_negative(np.arange(len(seen), dtype=np.int32)).tolist() == expected


def test_every_unseen_item_is_equally_likely() -> None:
    seen = np.eye(6, dtype=np.float32)
    seen[0, 3] = 1
    drawn = NegativeSampler(sparse.csr_array(seen)).draw(np.zeros(40_000, np.int32), np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=6) / 40_000
    assert shares[[0, 3]].tolist() == [0, 0]
    assert np.abs(shares[[1, 2, 4, 5]] - 0.25).max() < 0.01


def test_a_user_who_chose_everything_cannot_be_sampled() -> None:
    sampler = NegativeSampler(sparse.csr_array(np.float32([[1, 1], [1, 0]])))
    with pytest.raises(InvalidData):
        sampler.draw(np.array([0], np.int32), np.random.default_rng(0))
