"""Orders of points."""

import numpy as np
import pytest

from dkp.gram.order import farthest_first

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("rows", ["distinct", "repeated"])
def test_farthest_first(rows):
    x = RNG.normal(size=(20, 3))
    x = x if rows == "distinct" else x[np.arange(20) % 7]
    order = farthest_first(x)
    assert sorted(order) == list(range(20))
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    assert order[0] == np.argmax(np.linalg.norm(x - x.mean(axis=0), axis=1))
    for i in range(1, 20):
        nearest = distances[:, order[:i]].min(axis=1)
        assert nearest[order[i]] == pytest.approx(nearest[order[i:]].max(), abs=1e-12)
