"""Limits of deep Gaussian processes against their Monte Carlo means and their own limits."""

import numpy as np
import pytest

from dkp.theory import limits

OPTIONS = {"variance1": 1.3, "lengthscale2": 0.8}


def differences(k1, width, n, seed=0):
    """f_i - f_i' of W units, (n, W)."""
    scale = np.sqrt(2 * (OPTIONS["variance1"] - k1))
    return scale * np.random.default_rng(seed).normal(size=(n, width))


@pytest.mark.parametrize("width", [1, 5])
def test_kernels_are_means_over_layer_one(width):
    """|z| < 4.5."""
    for k1 in (-0.4, 0.3, 1.2):
        d2 = differences(k1, width, 100_000) ** 2 / OPTIONS["lengthscale2"] ** 2
        additive, isotropic = np.exp(-d2 / 2).mean(axis=1), np.exp(-d2.mean(axis=1) / 2)
        for draws, truth in (
            (additive, limits.additive_kernel(k1, **OPTIONS)),
            (isotropic, limits.isotropic_kernel(k1, width, **OPTIONS)),
        ):
            assert abs(draws.mean() - truth) < 4.5 * draws.std() / np.sqrt(len(draws))


def test_published_values():
    """Unit parameters; 0.4809 and 0.3754, four digits."""
    assert limits.additive_kernel(1.0) == 1 and limits.isotropic_kernel(1.0, 3) == 1
    gap = (1 / 0.4809**2 - 1) / 2
    assert limits.additive_kernel(1 - gap) == pytest.approx(0.4809, abs=1e-4)


def test_width_leads_to_the_limit_and_one_unit_is_additive():
    k1 = np.linspace(-1, 1.3, 7)
    wide = limits.isotropic_kernel(k1, 10**7, **OPTIONS)
    np.testing.assert_allclose(wide, limits.limiting_isotropic_kernel(k1, **OPTIONS), rtol=1e-5)
    np.testing.assert_allclose(
        limits.isotropic_kernel(k1, 1, **OPTIONS), limits.additive_kernel(k1, **OPTIONS)
    )


@pytest.mark.parametrize("width", [1, 4])
def test_kurtosis_of_differences(width):
    """3 Var v / (E v)^2 by Monte Carlo, within 3%."""
    rho = np.exp(
        -(differences(0.3, width, 400_000) ** 2) / (2 * OPTIONS["lengthscale2"] ** 2)
    ).mean(axis=1)
    v = 2 * (1 - rho)
    truth = limits.difference_kurtosis(0.3, width, **OPTIONS)
    assert 3 * v.var() / v.mean() ** 2 == pytest.approx(truth, rel=0.03)
    assert limits.difference_kurtosis(0.3, 100, **OPTIONS) * 100 == pytest.approx(truth * width)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: limits.additive_kernel(2.0), "between -1.0 and 1.0"),
        (lambda: limits.additive_kernel(0.0, lengthscale2=0.0), "lengthscale2"),
        (lambda: limits.isotropic_kernel(0.0, 0), "width"),
        (lambda: limits.difference_kurtosis(1.0, 3), "differ"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
