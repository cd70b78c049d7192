"""Widths side by side, against importance sampling on linear networks."""

import functools
import math

import jax
import numpy as np
import pytest

import dkp
from benchmarks.claims.toy_width import importance_sampling, log_likelihoods, model, toy
from dkp import kernels, likelihoods
from dkp.inference.tempered import widths
from dkp.inference.tempered.widths import compare_widths, with_width
from tests.support import relaxed

PROBLEM = toy(3, n=12, outputs=6, noise=0.5)
HELD_OUT = toy(3, n=12, outputs=6, noise=0.5)
WIDTHS = (1, 3, math.inf)


def dataset():
    return dkp.Dataset.from_arrays(PROBLEM.x, PROBLEM.y, standardize=False)


def compare(described=None, **options):
    options = {"widths": WIDTHS, "particles": 128, "progress": False} | options
    described = model(PROBLEM.noise) if described is None else described
    with relaxed():
        return compare_widths(described, dataset(), key=jax.random.key(0), **options)


@functools.cache
def comparison():
    return compare(held_out=(HELD_OUT.x, HELD_OUT.y))


def sampled_evidence(width, draws=300_000):
    """Log of the mean likelihood of weights drawn from the prior, and its standard error."""
    if math.isinf(width):
        return importance_sampling(PROBLEM, width)
    weights = np.random.default_rng(8).normal(size=(draws, 4, int(width)))
    logs = log_likelihoods(PROBLEM)(weights @ weights.transpose(0, 2, 1) / width)
    ratios = np.exp(logs - logs.max())
    return logs.max() + math.log(ratios.mean()), ratios.std() / ratios.mean() / math.sqrt(draws)


@pytest.mark.slow
def test_evidence_is_that_of_weights_drawn_from_the_prior():
    found = comparison()
    for width, value, error in zip(
        found.widths, found.log_evidence, found.log_evidence_se, strict=True
    ):
        truth, truth_error = sampled_evidence(width)
        assert truth_error < 0.2 and error < 1.0
        assert abs(value - truth) < 4 * math.hypot(error, truth_error) + 1e-5


def test_the_benchmarks_importance_sampling_is_that_of_the_prior_too():
    truth, truth_error = sampled_evidence(4.0)
    value, error = importance_sampling(PROBLEM, 4.0, draws=20_000, starts=1)
    assert abs(value - truth) < 4 * math.hypot(error, truth_error)


def test_probabilities_are_softmax_of_the_evidence():
    found = comparison()
    assert isinstance(found, dkp.WidthComparison)
    weights = np.exp(found.log_evidence - found.log_evidence.max())
    np.testing.assert_allclose(found.probability, weights / weights.sum())
    assert found.best == found.widths[np.argmax(found.log_evidence)]
    assert found.widths.tolist() == list(WIDTHS) and found.log_evidence_se[-1] == 0


def test_held_out_density_is_that_of_predictions():
    found = comparison()
    prediction = dkp.predict(found.evidences[-1].posterior, HELD_OUT.x, key=jax.random.key(1))
    np.testing.assert_allclose(
        found.held_out_log_density[-1], prediction.log_density(HELD_OUT.y).sum()
    )
    assert np.all(np.isfinite(found.held_out_log_density))


def test_the_table_has_a_row_a_width():
    found = comparison()
    assert len(str(found).splitlines()) == 1 + len(WIDTHS)
    assert found.summary()["widths"] == list(WIDTHS)


def test_a_prior_weighs_widths(monkeypatch):
    evidences = comparison().evidences
    monkeypatch.setattr(
        widths, "log_evidence", lambda m, *_, **__: evidences[0 if m.bottlenecks else -1]
    )
    found = compare(widths=[1, math.inf], prior=[0.0, 2.0])
    assert found.probability.tolist() == [0.0, 1.0] and found.held_out_log_density is None


def test_an_interruption_returns_what_is_finished(monkeypatch):
    first = comparison().evidences[0]

    def interrupted(described, *_, **__):
        if described.bottlenecks[0].width == 1:
            return first
        raise KeyboardInterrupt

    monkeypatch.setattr(widths, "log_evidence", interrupted)
    found = compare(widths=[1, 2, 3])
    assert found.widths.tolist() == [1.0] and found.probability.tolist() == [1.0]
    with pytest.raises(KeyboardInterrupt):
        compare(widths=[2, 3])


@pytest.mark.parametrize("options", [{"max_memory": 3e5}, {"runs": 1}, {"move": "gibbs"}])
def test_what_a_later_width_cannot_do_is_refused_before_the_first_runs(monkeypatch, options):
    monkeypatch.setattr(widths, "log_evidence", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(ValueError, match=r"Expected (to need at most|runs|move)"):
        compare(widths=[1, 64], **options)


def test_widths_of_all_wishart_bottlenecks_change_and_others_stay():
    layers = [
        kernels.Linear(),
        dkp.Wishart(width=2),
        dkp.InverseWishart(delta=3.0),
        dkp.Wishart(width=5),
    ]
    described = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=0.1))
    changed = with_width(described, 7)
    assert [layer.width for layer in changed.layers if isinstance(layer, dkp.Wishart)] == [7, 7]
    assert changed.layers[2] is layers[2]
    assert with_width(described, math.inf).layers == (layers[0], layers[2])
    alone = dkp.DeepKernelProcess(layers=[dkp.Wishart(width=2)], likelihood=described.likelihood)
    assert isinstance(with_width(alone, math.inf).layers[0], kernels.Linear)


@pytest.mark.parametrize(
    "widths", [[], [0], [-1], [1, 1], [math.nan], ["4"], "4", [True], [2.5], [-math.inf], None, 3]
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_widths_are_refused(widths):
    with pytest.raises(ValueError, match=r"Expected (widths|Wishart)"):
        compare(widths=widths)


@pytest.mark.parametrize(
    "prior", [[1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, math.nan, 1.0], "abc"]
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_priors_are_refused(prior):
    with pytest.raises(ValueError, match="Expected prior"):
        compare(prior=prior)


@pytest.mark.parametrize(
    "held_out",
    [
        3,
        (PROBLEM.x,),
        (PROBLEM.x, PROBLEM.y[:-1]),
        (PROBLEM.x, PROBLEM.y[:, :2]),
        (PROBLEM.x[:, :2], PROBLEM.y),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_held_out_data_are_refused(held_out):
    with pytest.raises(ValueError, match="Expected"):
        compare(held_out=held_out)


def test_a_model_without_wishart_is_refused():
    layers = [kernels.Linear(), dkp.InverseWishart(delta=3.0)]
    described = dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=0.1))
    with pytest.raises(
        ValueError, match=r"Expected a model with a dkp.Wishart\(width=…\) bottleneck"
    ):
        compare(described)
