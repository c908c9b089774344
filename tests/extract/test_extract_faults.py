from __future__ import annotations

import pytest

from extract.errors import ConfigError, ResourceExhausted
from extract.faults import Failure, HalvingBatch, describe, is_out_of_memory, isolate


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


def test_memory_errors_are_known_by_type_and_words():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OutOfMemoryError("CUDA"))
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    )
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_out_of_memory_halves_the_batch_keeps_order_and_remembers():
    sizes, released = [], []

    def work(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise OutOfMemoryError
        return [number * 10 for number in batch]

    halving = HalvingBatch(work, lambda: released.append(1))
    assert halving(list(range(8))) == [number * 10 for number in range(8)]
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert len(released) == 2
    assert halving([1, 2, 3]) == [10, 20, 30]
    assert sizes[6:] == [2, 1]


def test_one_item_too_large_is_an_error_of_resources():
    def work(batch):
        raise MemoryError

    with pytest.raises(ResourceExhausted):
        HalvingBatch(work)([1, 2])


def test_other_errors_pass_through_halving():
    def work(batch):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        HalvingBatch(work)([1, 2])


def test_a_failing_item_is_isolated_and_its_neighbours_are_done():
    def work(batch):
        if 2 in batch:
            raise ValueError("two")
        return [number + 1 for number in batch]

    assert isolate(work, [1, 2, 3]) == [2, Failure("engine-error", "ValueError: two"), 4]


def test_a_wrong_number_of_results_is_a_failure():
    assert isolate(lambda batch: [], [1]) == [
        Failure("engine-error", "ValueError: the engine gave 0 results for 1 items")
    ]


def test_errors_of_the_run_are_not_blamed_on_items():
    def work(batch):
        raise ConfigError("C001", "wrong setting")

    with pytest.raises(ConfigError):
        isolate(work, [1, 2])


def test_descriptions_hold_no_addresses():
    assert describe(OSError("cannot read <BytesIO object at 0x7fffabcd>\nmore")) == (
        "OSError: cannot read <BytesIO object>"
    )
    assert describe(ValueError()) == "ValueError: "
