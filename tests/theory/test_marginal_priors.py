"""Priors of one output: against Bessel functions, real networks, quadrature and each other.

Monte Carlo comparisons use fixed seeds and |z| < 4.5: a false-alarm rate of 7e-6 a comparison over
seeds."""

import jax
import numpy as np
import pytest
from scipy import integrate, special, stats

from dkp.theory.marginal_priors import OutputPrior, edgeworth_density

H = np.array([-2.5, -1.0, 0.25, 1e-3, 0.5, 4.0, 12.0])


def test_without_hidden_layers_it_is_gaussian_far_into_the_tails():
    prior = OutputPrior((), scale=1.5)
    far = np.append(H, [20.0, 50.0])
    np.testing.assert_allclose(prior.density(far), stats.norm(0, 1.5).pdf(far), rtol=1e-9)
    np.testing.assert_allclose(prior.cdf(far), stats.norm(0, 1.5).cdf(far), rtol=1e-9)
    np.testing.assert_allclose(prior.cdf(-far), stats.norm(0, 1.5).cdf(-far), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100])
def test_one_hidden_layer_is_a_bessel_function(n):
    z = n * H**2 / 4
    truth = (
        np.sqrt(n / (4 * np.pi))
        / special.gamma(n / 2)
        * 2
        * z ** ((n - 1) / 4)
        * special.kv((n - 1) / 2, 2 * np.sqrt(z))
    )
    np.testing.assert_allclose(OutputPrior([n]).density(H), truth, rtol=1e-8)


@pytest.mark.parametrize(
    ("widths", "activation"), [((4, 3), "linear"), ((3,), "relu"), ((2, 5, 3), "relu")]
)
def test_it_integrates_to_its_distribution_function(widths, activation):
    prior = OutputPrior(widths, activation)
    for low, high in ((0.3, 1.0), (1.0, 3.0), (3.0, 30.0)):
        found = integrate.quad(lambda h: prior.density(h).item(), low, high, epsabs=1e-10)[0]
        np.testing.assert_allclose(found, prior.cdf(high) - prior.cdf(low), atol=1e-8)
    near = integrate.quad(
        lambda u: 2 * u * prior.density(u**2).item(), 1e-6, np.sqrt(0.3), epsabs=1e-10
    )[0]
    np.testing.assert_allclose(2 * (near + 1 - prior.cdf(0.3)), 1 - prior.atom, atol=1e-6)


@pytest.mark.parametrize(
    ("widths", "activation"),
    [((5,), "linear"), ((4, 3), "linear"), ((3,), "relu"), ((4, 6), "relu")],
)
def test_real_networks_have_it(widths, activation):
    n, rng = 200_000, np.random.default_rng(0)
    f = np.ones((n, 1))
    for width in widths:
        f = (f[:, None, :] @ rng.normal(size=(n, f.shape[1], width)))[:, 0] / np.sqrt(f.shape[1])
        f = f if activation == "linear" else np.sqrt(2) * np.maximum(f, 0)
    h = (f * rng.normal(size=f.shape)).sum(axis=1) / np.sqrt(f.shape[1])
    check_draws(h, OutputPrior(widths, activation))


@pytest.mark.parametrize(("widths", "activation"), [((4, 3), "linear"), ((3, 2), "relu")])
def test_its_own_draws_have_it(widths, activation):
    prior = OutputPrior(widths, activation, scale=2.0)
    check_draws(np.asarray(prior.sample(jax.random.key(0), (200_000,))), prior)


def check_draws(h, prior):
    """The distribution function at some places, and the atom."""
    n, places = len(h), prior.scale * np.array([-3.0, -1.0, -0.2, 0.05, 0.5, 2.0, 4.0])
    truth = prior.cdf(places)
    z = (np.mean(h[:, None] <= places, axis=0) - truth) / np.sqrt(truth * (1 - truth) / n)
    assert np.abs(z).max() < 4.5
    assert abs(np.mean(h == 0) - prior.atom) <= 4.5 * np.sqrt(prior.atom * (1 - prior.atom) / n)
    assert abs(np.mean(h**2) / prior.moment(2) - 1) < 4.5 * np.std(h**2) / np.sqrt(n)


def test_published_values():
    """Width 5, and widths 4 and 3, at 0.25, 1 and 2.5, four digits; the atom of three rectifiers is
    1 / 8."""
    np.testing.assert_allclose(
        OutputPrior([5]).density([0.25, 1.0, 2.5]), [0.4418, 0.2107, 0.0200], atol=6e-5
    )
    np.testing.assert_allclose(
        OutputPrior([4, 3]).density([0.25, 1.0, 2.5]), [0.5207, 0.1639, 0.0192], atol=6e-5
    )
    assert OutputPrior([3], "relu").atom == pytest.approx(1 / 8)
    assert OutputPrior([3, 4], "relu").atom == pytest.approx(1 - (7 / 8) * (15 / 16))


def test_meijers_g_function():
    mpmath = pytest.importorskip("mpmath", reason="has Meijer's G function")
    widths = [4, 3, 6]
    total = np.prod(widths) / 2**4
    constant = np.sqrt(total / np.pi) / np.prod(special.gamma(np.array(widths) / 2))
    for h in (0.25, 1.0, 2.5):
        g = mpmath.meijerg([[], []], [[0, *((n - 1) / 2 for n in widths)], []], total * h**2)
        np.testing.assert_allclose(OutputPrior(widths).density(h), constant * float(g), rtol=1e-8)


@pytest.mark.parametrize("widths", [(), (5,), (4, 3, 100)])
def test_moments(widths):
    prior = OutputPrior(widths, scale=1.3)
    product = np.prod([1 + 2 / n for n in widths])
    assert prior.moment(0) == 1 and prior.moment(3) == 0
    assert prior.moment(2) == pytest.approx(1.3**2)
    assert prior.moment(4) == pytest.approx(3 * 1.3**4 * product)
    assert prior.excess_kurtosis == pytest.approx(3 * (product - 1))
    relu = OutputPrior(widths, "relu", scale=1.3)
    assert relu.moment(2) == pytest.approx(1.3**2)


def test_wide_networks_are_gaussian_and_one_bottleneck_dominates():
    np.testing.assert_allclose(
        OutputPrior([10**6] * 3).density(H[:5]), stats.norm.pdf(H[:5]), rtol=1e-4
    )
    mixed, narrow = OutputPrior([10**5, 3, 10**5]), OutputPrior([3])
    np.testing.assert_allclose(mixed.density(H[:5]), narrow.density(H[:5]), rtol=1e-3)


def test_edgeworth_is_right_to_first_order():
    h = np.linspace(0, 2, 5)
    errors = [
        np.abs(edgeworth_density(h, [n, n]) - OutputPrior([n, n]).density(h)).max()
        for n in (20, 200)
    ]
    assert errors[1] < errors[0] / 50 and errors[0] < 0.01


def test_densities_at_zero():
    assert (
        OutputPrior([1]).density(0.0) == np.inf and OutputPrior([3], "relu").density(0.0) == np.inf
    )
    np.testing.assert_allclose(
        OutputPrior([4, 3]).density(0.0), OutputPrior([4, 3]).density(1e-7), rtol=1e-4
    )
    assert OutputPrior([4]).cdf(0.0) == 0.5
    assert (
        OutputPrior([1], "relu").cdf(0.0) == 0.75 and OutputPrior([1], "relu").cdf(-1e-300) < 0.26
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OutputPrior([0]), "widths"),
        (lambda: OutputPrior([2], "tanh"), "activation"),
        (lambda: OutputPrior([2], scale=0.0), "scale"),
        (lambda: OutputPrior([2]).moment(-1), "order"),
        (lambda: OutputPrior([2]).density(np.nan), "NaN"),
        (lambda: edgeworth_density(0.0, [0]), "widths"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
