"""Infinitely wide networks on images: one small run of each architecture, and its scores by
hand."""

import dataclasses

import numpy as np
import pytest

from benchmarks.config import NETWORKS, plan
from benchmarks.tables import datasets, networks


def test_every_network_has_an_architecture():
    assert {name.removesuffix("-zca") for name in NETWORKS} == set(networks.ARCHITECTURES)


def test_images_are_disjoint_parts_and_coarser_ones_are_means(monkeypatch):
    images = datasets.load_images("digits", 0)
    assert images.x.shape == (1000, 8, 8, 1) and images.x_test.shape == (797, 8, 8, 1)
    rows = {tuple(x.ravel()) for x in images.x}
    assert not any(tuple(x.ravel()) in rows for x in images.x_test)
    assert images.x.min() == 0 and images.x.max() == 1
    monkeypatch.setitem(
        datasets.IMAGES, "digits", dataclasses.replace(datasets.IMAGES["digits"], block=2)
    )
    coarse = datasets.load_images("digits", 0)
    np.testing.assert_allclose(coarse.x[3, 1, 2, 0], images.x[3, 2:4, 4:6, 0].mean())
    with pytest.raises(ValueError, match="Expected name .* Got"):
        datasets.load_images("diabetes", 0)


def test_scores_by_hand():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    found = networks.score(probabilities, np.array([0, 1]), (0, 1, 2))
    assert found["accuracy"] == 0.5
    np.testing.assert_allclose(found["log_density"], np.log(0.5 * 0.2) / 2)
    np.testing.assert_allclose(
        found["log_density_se"], np.std(np.log([0.5, 0.2]), ddof=1) / np.sqrt(2)
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fcn-zca", "gap"])
def test_networks_learn_digits(monkeypatch, method):
    small = dataclasses.replace(datasets.IMAGES["digits"], n_train=60, n_test=40, block=2)
    monkeypatch.setitem(datasets.IMAGES, "digits", small)
    (run,) = plan("nngp", datasets="digits", methods=method)
    record = networks.evaluate(run)
    assert record["fit"].get("zca_eps") in ((None,) if method == "gap" else networks.WHITENINGS)
    assert record["n_train"] == 60 and record["n_test"] == 40
    for kernel in ("nngp", "ntk"):
        assert record["metrics"][f"accuracy_{kernel}"] > 0.4
        assert record["metrics"][f"log_density_{kernel}"] > np.log(0.1)
        assert record["fit"][f"diag_reg_{kernel}"] in networks.DIAG_REGS
