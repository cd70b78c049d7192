"""What practitioners set, against gradient descent and eigenvalues."""

import warnings

import numpy as np
import pytest

from dkp.theory import parametrisation

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(6, 8))
NTK = ROOT @ ROOT.T


def test_standard_weight_decay_gives_the_same_penalty():
    decay = parametrisation.standard_weight_decay(0.3, [4, 7], weight_var=2.0)
    for n, own in zip((4, 7), decay, strict=True):
        omega = RNG.normal(size=(n, 3))
        weights = np.sqrt(2.0 / n) * omega
        assert own * np.sum(weights**2) == pytest.approx(0.3 * np.sum(omega**2))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_descent_converges_below_the_critical_rate_and_diverges_above(momentum):
    critical = parametrisation.critical_learning_rate(NTK, momentum=momentum)
    for factor, converges in ((0.98, True), (1.02, False)):
        f, velocity = np.zeros(6), np.zeros(6)
        target = np.linalg.eigh(NTK)[1][:, -1]
        for _ in range(2000):
            velocity = momentum * velocity - factor * critical * NTK @ (f - target)
            f = f + velocity
        assert (np.linalg.norm(f - target) < 1) == converges


def test_a_step_that_is_too_large_is_warned_of():
    critical = parametrisation.critical_learning_rate(NTK)
    with pytest.warns(RuntimeWarning, match=f"{critical:.4g}"):
        parametrisation.critical_learning_rate(NTK, warn_at=1.1 * critical)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parametrisation.critical_learning_rate(NTK, warn_at=0.9 * critical)


def test_noise_reaches_the_smallest_eigenvalue_at_the_critical_size():
    """Smallest eigenvalues of noisy kernels of a power law: positive far below, negative far
    above."""
    size = parametrisation.critical_data_size(1.0, 1.5, 2e-3)
    assert size == pytest.approx((1 / 4e-3) ** 1.0)
    for m, positive in ((int(size / 3), True), (int(3 * size), False)):
        values = m * np.arange(1.0, m + 1) ** -1.5
        basis = np.linalg.qr(np.random.default_rng(0).normal(size=(m, m)))[0]
        noise = 2e-3 * np.random.default_rng(1).normal(size=(m, m))
        noisy = (basis * values) @ basis.T + np.tril(noise) + np.tril(noise, -1).T
        assert (np.linalg.eigvalsh(noisy)[0] > 0) == positive


def test_early_stopping_and_ridge_agree_for_small_eigenvalues():
    time, small = 50.0, np.array([1e-5, 1e-4])
    ridge = parametrisation.equivalent_regularisation(time)
    stopped, regularised = (
        parametrisation.early_stopping_filter(small, time),
        parametrisation.ridge_filter(small, ridge),
    )
    np.testing.assert_allclose(stopped, regularised, rtol=5e-3)
    assert parametrisation.ridge_filter(ridge, ridge) == 0.5
    assert parametrisation.early_stopping_filter(ridge, time) == pytest.approx(1 - np.exp(-1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parametrisation.critical_learning_rate(-NTK), "positive semi-definite"),
        (lambda: parametrisation.critical_learning_rate(np.zeros((2, 2))), "other than zero"),
        (lambda: parametrisation.critical_learning_rate(NTK, momentum=1.0), "below 1"),
        (lambda: parametrisation.critical_data_size(1.0, 0.5, 0.1), "above 1/2"),
        (lambda: parametrisation.standard_weight_decay(-1.0, [2]), "decay"),
        (lambda: parametrisation.ridge_filter([-1.0], 0.1), "at least 0"),
        (lambda: parametrisation.equivalent_regularisation(0.0), "time"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
