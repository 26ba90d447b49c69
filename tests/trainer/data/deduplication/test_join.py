"""Joining: what a slow, plain computation gives, in any number of parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.data.deduplication import join
from windlass.data.deduplication.join import clusters, first_of_equals, pairs_of_equals

numbers = st.lists(st.integers(0, 8), max_size=40)


@given(numbers)
def test_the_first_of_equals_is_found(values: list[int]) -> None:
    assert first_of_equals(np.array(values, np.uint64)).tolist() == [values.index(value) for value in values]


@pytest.mark.parametrize("most", [1, 7, 1000])
@given(values=numbers)
def test_pairs_are_the_same_in_any_number_of_parts(most: int, values: list[int]) -> None:
    hashes = np.array(values, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "MOST", most)
        found = pairs_of_equals(lambda: hashes, len(hashes))
    expected = [(values.index(v), at) for at, v in enumerate(values) if v and values.index(v) < at]
    assert sorted(map(tuple, found.tolist())) == sorted(expected)


@given(st.integers(1, 30), st.data())
def test_clusters_are_what_pairs_connect(total: int, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(0, total - 1), st.integers(0, total - 1)), max_size=40))
    expected = list(range(total))
    for _ in range(total):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert clusters(total, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == expected
