"""The coordinates that samplers move: densities against NumPyro's and quadrature, prior draws,
orders of the rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from dkp.bottlenecks.base import Bottleneck
from dkp.inference.coordinates import Coordinates
from dkp.inference.markov.summaries import functionals
from dkp.likelihoods.base import PointwiseLikelihood
from tests.support import relaxed, run_python

N = 6
RNG = np.random.default_rng(8)
X = RNG.normal(size=(N, 2))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2], axis=1)


class Counts(PointwiseLikelihood):
    """Poisson counts of mean exp(f)."""

    standardises_targets = False

    def law(self, f):
        return dist.Poisson(jnp.exp(f))


def squared_exponential(lengthscale=1.0):
    return kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0)


def model(*layers, likelihood=None):
    noise = likelihoods.Gaussian(noise=dist.LogNormal(-1.0, 0.3))
    return dkp.DeepKernelProcess(
        layers=list(layers), likelihood=noise if likelihood is None else likelihood
    )


MODELS = {
    "inverse Wishart with inferred delta, real inferred width": model(
        dkp.InverseWishart(delta=dist.Gamma(3.0, 0.5)),
        kernels.ReLU(),
        dkp.Wishart(width=dist.TruncatedNormal(20.0, 10.0, low=float(N))),
        squared_exponential(),
    ),
    "singular Wishart, vector of weights": model(
        kernels.Linear(ard=True, weights=dist.LogNormal(0.0, 1.0)),
        dkp.Wishart(width=2),
        squared_exponential(),
    ),
    "counts": model(
        squared_exponential(),
        dkp.Wishart(width=3),
        squared_exponential(dist.Gamma(2.0, 1.0)),
        likelihood=Counts(),
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)


def dataset(name, x=X, y=Y, dtype=None):
    y = np.round(np.exp(y)) if name == "counts" else y
    return dkp.Dataset.from_arrays(x, y, standardize=name != "counts", dtype=dtype)


def coordinates(name, features=False, **options):
    return Coordinates.of(model=MODELS[name], data=dataset(name, **options), features=features)


def a_point(target, seed=1):
    return jax.jit(target.sample_prior)(jax.random.key(seed))


# --- densities ------------------------------------------------------------------------------------


@every_model
def test_log_posterior_is_numpyros(name):
    """The density of the centred factors and the hyperparameters by NumPyro, times the Jacobian of
    z by autodiff.

    NumPyro's factors have positive diagonals; in z the last entry of a singular one has either
    sign, each with half the density."""
    target = coordinates(name)
    z = a_point(target)
    singular = [
        layer for layer in target.model.bottlenecks if getattr(layer, "integer", None) is not None
    ]

    def positive(network):
        return [s * jnp.sign(jnp.diagonal(s)) for s in network.factors]

    def free(z):
        """The free entries of everything that NumPyro samples."""
        network = target.network(z)
        lower = [s[np.tril_indices(N, 0, s.shape[1])] for s in positive(network)]
        latent = [] if network.f is None else [z[-target.sizes[-1] :]]
        return jnp.concatenate([*(v.reshape(-1) for v in network.values.values()), *lower, *latent])

    def numpyros(z):
        network = target.network(z)
        sites = {
            **network.values,
            **{f"gram_{i}": s for i, s in enumerate(positive(network), start=1)},
        }
        if network.f is not None:
            sites["f_whitened"] = z[-target.sizes[-1] :].reshape(N, -1)
        joint, _ = log_density(target.model.numpyro, (target.x, target.y), {}, sites)
        return joint + jnp.linalg.slogdet(jax.jacfwd(free)(z))[1] - len(singular) * math.log(2)

    with relaxed():
        truth = jax.jit(numpyros)(z)
    found, prior, (correction, likelihood) = jax.jit(
        lambda z: (target.log_posterior(z), target.log_prior(z), target.log_densities(z))
    )(z)
    np.testing.assert_allclose(found, truth, rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(prior + likelihood, found, rtol=1e-12)
    np.testing.assert_allclose(
        prior, correction + stats.norm.logpdf(np.asarray(z)).sum(), rtol=1e-10
    )


TWO_NUMBERS = {
    "inverse Wishart, inferred delta": (1, [dkp.InverseWishart(delta=dist.Gamma(3.0, 0.5))]),
    "inferred real width": (1, [dkp.Wishart(width=dist.Pareto(1.0, 2.0))]),
    "singular Wishart of two points": (2, [dkp.Wishart(width=1)]),
}


@pytest.mark.parametrize("name", TWO_NUMBERS)
def test_prior_density_is_that_of_the_prior_draws(name):
    """In two dimensions: it integrates to one, and draws have its means and standard deviations (6
    z-scores beyond 4.5: odds 4e-5 by chance)."""
    n, layers = TWO_NUMBERS[name]
    data = dkp.Dataset.from_arrays(X[:n], Y[:n], standardize=False)
    target = Coordinates.of(
        model=model(*layers, likelihood=likelihoods.Gaussian(noise=0.5)), data=data
    )
    assert target.size == 2
    grid = np.linspace(-16, 9, 501)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    density = (
        np.exp(np.asarray(jax.jit(jax.vmap(target.log_prior))(jnp.asarray(points))))
        * (grid[1] - grid[0]) ** 2
    )
    assert density.sum() == pytest.approx(1, abs=1e-5)
    n_draws = 4_000
    draws = np.asarray(
        jax.jit(jax.vmap(target.sample_prior))(jax.random.split(jax.random.key(2), n_draws))
    )
    for power in (lambda z: z, lambda z: np.minimum(z**2, 20.0), np.cos):
        mean = density @ power(points)
        spread = np.sqrt(density @ power(points) ** 2 - mean**2)
        assert np.abs((power(draws).mean(axis=0) - mean) / (spread / np.sqrt(n_draws))).max() < 4.5


@every_model
def test_prior_draws_are_close_to_standard_normal(name):
    """What an untuned sampler needs: no coordinate is far off centre or scale. 2000 draws know
    means to 0.02 and deviations to 0.02; logarithms of chi^2(1) and of Gamma variables are
    skewed."""
    target = coordinates(name)
    z = np.asarray(
        jax.jit(jax.vmap(target.sample_prior))(jax.random.split(jax.random.key(3), 2_000))
    )
    assert z.shape == (2_000, target.size)
    assert np.abs(z.mean(axis=0)).max() < 0.4
    assert z.std(axis=0).min() > 0.8 and z.std(axis=0).max() < 1.4


def test_where_the_density_is_not_finite_it_is_zero():
    target = coordinates("singular Wishart, vector of weights")
    far = jnp.full(target.size, 1e3)
    densities, log_posterior = jax.jit(
        lambda z: (target.log_densities(z), target.log_posterior(z))
    )(far)
    assert np.all(np.asarray(densities) == -np.inf) and log_posterior == -np.inf


@pytest.mark.parametrize("name", ["singular Wishart, vector of weights", "counts"])
def test_single_precision(name):
    target, exact = coordinates(name, dtype=np.float32), coordinates(name)
    with relaxed():  # NumPyro's densities under float64
        z = a_point(target)
        assert z.dtype == jnp.float32
        found = jax.jit(target.log_posterior)(z)
    assert found.dtype == jnp.float32
    truth = jax.jit(exact.log_posterior)(z.astype(jnp.float64))
    np.testing.assert_allclose(found, truth, rtol=5e-3)  # the jitter differs


# --- features -------------------------------------------------------------------------------------


def test_signs_are_independent_of_the_entries_in_single_precision():
    """Without 64-bit numbers a sign and a proposal of the entry could come from the same random
    word: width 1, whose one diagonal entry is normal (Kolmogorov-Smirnov, p > 1e-5)."""
    code = """
import jax, numpy as np, dkp
from dkp.inference.coordinates import Coordinates
layers = [dkp.kernels.SquaredExponential(1.0, 1.0), dkp.Wishart(width=1)]
model = dkp.DeepKernelProcess(layers=layers, likelihood=dkp.likelihoods.Gaussian(noise=0.1))
target = Coordinates.of(model=model, data=dkp.Dataset.from_arrays(np.eye(2), np.eye(2)[0]))
draws = jax.vmap(target.sample_prior)(jax.random.split(jax.random.key(0), 5000))
print(draws.dtype, *np.asarray(draws)[:, -1])
"""
    dtype, *entries = run_python(code, timeout=120).split()
    assert dtype == "float32"
    assert stats.kstest(np.asarray(entries, float), "norm").pvalue > 1e-5


def test_features_have_the_law_of_the_factor():
    """N(0, I) exactly, and the same Gram matrices: Kolmogorov-Smirnov on 4000 draws of five
    numbers, p > 1e-4 each (odds 5e-4 by chance)."""
    described = model(
        squared_exponential(),
        dkp.Wishart(width=2),
        kernels.ReLU(),
        likelihood=likelihoods.Gaussian(0.3),
    )
    data = dataset("")
    factors, features = (
        Coordinates.of(model=described, data=data, features=f) for f in (False, True)
    )
    assert (factors.size, features.size) == (2 * N - 1, 2 * N)
    z = jnp.asarray(RNG.normal(size=features.size))
    assert features.network(z).correction == 0
    np.testing.assert_allclose(
        features.log_prior(z), stats.norm.logpdf(np.asarray(z)).sum(), rtol=1e-12
    )
    found = []
    for target, seed in ((factors, 4), (features, 5)):

        def one(key, target=target):
            network = target.network(target.sample_prior(key))
            gram = network.factors[0] @ network.factors[0].T
            return jnp.stack(
                [
                    gram[0, 0],
                    gram[1, 0],
                    gram[N - 1, 2],
                    target.log_likelihood(network),
                    jnp.trace(gram),
                ]
            )

        found.append(
            np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), 4_000)))
        )
    for a, b in zip(found[0].T, found[1].T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-4


def test_features_only_where_they_are_fewer_than_points():
    described = model(
        dkp.Wishart(width=N),
        dkp.Wishart(width=2),
        dkp.InverseWishart(delta=3.0),
        dkp.Wishart(width=7.5),
    )
    sizes = Coordinates.of(model=described, data=dataset(""), features=True).sizes
    full = N * (N + 1) // 2
    assert sizes == (1, full, 2 * N, full, full)


# --- row orders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["singular Wishart, vector of weights", "counts"])
def test_the_order_of_the_rows_does_not_matter(name):
    rows = RNG.permutation(N)
    target, permuted = coordinates(name), coordinates(name, x=X[rows], y=Y[rows])
    np.testing.assert_allclose(permuted.x, target.x, rtol=1e-12)
    z = a_point(target)
    np.testing.assert_allclose(
        jax.jit(permuted.log_posterior)(z), jax.jit(target.log_posterior)(z), rtol=1e-8
    )
    for some in (target, permuted):
        np.testing.assert_array_equal(some.in_data_order(some.x), some.data.x)
        np.testing.assert_array_equal(some.in_data_order(some.y), some.data.y)


def test_functionals_are_of_rows_as_the_data_have_them():
    """f at the first, the middle and the last row of the data: the mean of a Gaussian process with
    this kernel."""
    target = coordinates("singular Wishart, vector of weights")
    network = jax.jit(target.network)(a_point(target))
    found = jax.jit(lambda network: functionals(target, network))(network)
    kernel, noise = np.asarray(network.kernel), float(network.values["likelihood.noise"]) ** 2
    f = kernel @ np.linalg.solve(
        kernel + noise * np.eye(N), np.asarray(target.data.y)[target.order]
    )
    rows = [list(target.order).index(i) for i in (0, 2, N - 1)]
    np.testing.assert_allclose(found["f"], f[rows], rtol=1e-6)
    gram = np.asarray(network.factors[0] @ network.factors[0].T)
    np.testing.assert_allclose(
        found["gram_1_log_det"], np.log(np.linalg.eigvalsh(gram)[-2:]).sum(), rtol=1e-8
    )
    np.testing.assert_allclose(found["gram_1_trace"], np.trace(gram), rtol=1e-10)
    centre = np.eye(N) - 1 / N
    labels = centre @ (np.asarray(target.y) @ np.asarray(target.y).T) @ centre
    centred = centre @ gram @ centre
    alignment = np.sum(centred * labels) / np.linalg.norm(centred) / np.linalg.norm(labels)
    np.testing.assert_allclose(found["gram_1_alignment"], alignment, rtol=1e-8)
    np.testing.assert_array_equal(found["layers.0.weights"], network.values["layers.0.weights"])


# --- what cannot be treated -----------------------------------------------------------------------


class Scaled(Bottleneck):
    """A bottleneck that is not made of Bartlett factors."""

    whiten = draw_data = mean_data = lambda self, *_: None

    def prior(self, scale):
        return dist.Normal(jnp.zeros_like(scale.tril), 1.0).to_event(2)


def test_a_bottleneck_without_a_bartlett_factor():
    with pytest.raises(
        ValueError, match=r"Bartlett factor.*Got Scaled\(\) \(bottleneck 2\) with Independent"
    ):
        Coordinates.of(model=model(dkp.Wishart(width=2), Scaled()), data=dataset(""))


@pytest.mark.parametrize(
    "width", [2.5, N - 0.5, dist.LogNormal(2.0, 0.1), dist.TruncatedNormal(9.0, 1.0, low=N - 1.0)]
)
def test_real_widths_below_the_number_of_points(width):
    with pytest.raises(ValueError, match="at least the number of points, 6"):
        Coordinates.of(model=model(dkp.Wishart(width=width)), data=dataset(""))


@pytest.mark.parametrize("width", [N, N + 0.5, dist.Pareto(float(N), 2.0)])
def test_real_widths_of_the_number_of_points_or_more(width):
    target = Coordinates.of(
        model=model(dkp.Wishart(width=width), squared_exponential()), data=dataset("")
    )
    assert np.isfinite(jax.jit(target.log_posterior)(a_point(target)))
