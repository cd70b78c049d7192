"""The evidence against quadrature, importance sampling and the exact Gaussian process."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, special, stats

import dkp
from dkp import kernels, likelihoods
from dkp.bottlenecks.inverse_wishart import InverseWishart
from dkp.bottlenecks.wishart import Wishart
from dkp.inference.gaussian.exact import ExactPosterior
from dkp.inference.tempered.evidence import combine_runs, log_evidence
from tests.support import relaxed

RNG = np.random.default_rng(4)
X = RNG.normal(size=(5, 2))
Y = np.sin(2 * X[:, 0]) + 0.2 * RNG.normal(size=5)
PAIR = np.array([[0.3, -0.2], [1.1, 0.7]])
PAIR_Y = np.array([[0.9, -0.4, 0.2], [-0.3, 0.8, 0.4]])
NOISE = 0.3


def dataset(x=X, y=Y):
    return dkp.Dataset.from_arrays(x, y, standardize=False)


def process(*layers, noise=NOISE):
    return dkp.DeepKernelProcess(layers=list(layers), likelihood=likelihoods.Gaussian(noise=noise))


def rbf(lengthscale=1.0):
    return kernels.SquaredExponential(lengthscale=lengthscale, variance=1.0)


def evidence(model, data, key=0, **options):
    options = {"particles": 128, "runs": 4, "progress": False} | options
    with relaxed():
        return log_evidence(model, data, key=jax.random.key(key), **options)


def check(found, truth, factor=4.0, error=0.5):
    """Within four standard errors (t law of three degrees of freedom: one failure in 36 keys), and
    an error that says something. The keys are fixed."""
    assert 0 < found.standard_error < error
    assert abs(found.log_evidence - truth) < factor * found.standard_error


def pair_evidence(squared_distance):
    """log p(y) of two points after a squared-exponential kernel, given the squared distances (S,)
    in its input."""
    off = np.exp(-np.asarray(squared_distance) / 2)
    total = np.zeros_like(off)
    for sign in (1, -1):  # the eigenvectors (1, 1) and (1, -1) of a matrix with equal diagonal
        variance = 1 + NOISE**2 + sign * off
        along = (PAIR_Y[0] + sign * PAIR_Y[1]) / math.sqrt(2)
        total += -(len(along) * np.log(2 * np.pi * variance) + np.sum(along**2) / variance) / 2
    return total


# --- exact ----------------------------------------------------------------------------------------


def test_without_anything_to_integrate_out_it_is_exact():
    model, data = process(rbf()), dataset()
    found = evidence(model, data)
    assert isinstance(found, dkp.Evidence)
    assert found.log_evidence == dkp.condition(model, data).log_marginal_likelihood
    assert found.standard_error == 0 and isinstance(found.posterior, ExactPosterior)
    assert found.summary()["standard_error"] == 0


@pytest.mark.slow
def test_one_inferred_hyperparameter_against_quadrature():
    prior, data = dist.LogNormal(0.0, 0.7), dataset()
    noises = np.exp(0.7 * np.linspace(-6, 6, 201))
    logs = [
        dkp.condition(process(rbf(), noise=float(s)), data).log_marginal_likelihood for s in noises
    ]
    density = stats.norm.pdf(np.linspace(-6, 6, 201))
    truth = math.log(integrate.trapezoid(np.exp(logs) * density, np.linspace(-6, 6, 201)))
    found = evidence(process(rbf(), noise=prior), data)
    check(found, truth, error=0.1)
    assert (
        found.temperatures[0] == 0
        and found.temperatures[-1] == 1
        and np.all(np.diff(found.temperatures) > 0)
    )


# --- one bottleneck -------------------------------------------------------------------------------


@functools.cache
def single():
    return evidence(
        process(kernels.Linear(), Wishart(width=3)),
        dataset(PAIR[:1], PAIR_Y[:1]),
        runs=64,
        particles=64,
    )


def single_truth(width=3):
    kernel = float(np.sum(PAIR[0] ** 2)) / 2

    def integrand(chi):
        variance = kernel * chi / width + NOISE**2
        return np.prod(stats.norm.pdf(PAIR_Y[0], scale=np.sqrt(variance))) * stats.chi2.pdf(
            chi, width
        )

    return math.log(integrate.quad(integrand, 0, 60)[0])


def test_one_point_and_a_wishart_against_quadrature():
    check(single(), single_truth(), error=0.1)


def test_errors_cover():
    """Sixteen estimates of four runs each. Were the errors from the spread of the runs alone (t
    laws of three degrees of freedom), more than six beyond two errors would be an event of one in
    270; the larger error makes it rarer."""
    found = single()
    groups = zip(found.runs.reshape(16, 4), found.within.reshape(16, 4), strict=True)
    scores = np.array(
        [
            np.divide(*np.subtract((v, e), (single_truth(), 0)))
            for v, e in (combine_runs(*g) for g in groups)
        ]
    )
    assert np.sum(np.abs(scores) > 2) <= 6
    assert np.abs(scores).max() < 10
    ratios = np.exp(found.runs - single_truth())  # of mean 1, however few the particles
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / 8


def test_one_point_and_an_inverse_wishart_against_quadrature():
    delta, kernel = 3.0, float(np.sum(PAIR[0] ** 2)) / 2
    law = stats.invgamma((delta + 2) / 2, scale=delta * kernel / 2)

    def integrand(quantile):
        return np.prod(stats.norm.pdf(PAIR_Y[0], scale=np.sqrt(law.ppf(quantile) + NOISE**2)))

    truth = math.log(integrate.quad(integrand, 0, 1)[0])
    model = process(kernels.Linear(), InverseWishart(delta=delta))
    check(evidence(model, dataset(PAIR[:1], PAIR_Y[:1])), truth, error=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3])
def test_two_points_and_a_wishart_against_quadrature(width):
    """(1, -1) G (1, -1)^T is its value in K times chi^2(nu) / nu."""
    distance = float(np.sum((PAIR[0] - PAIR[1]) ** 2)) / 2

    def integrand(chi):
        return np.exp(pair_evidence(distance * chi / width)) * stats.chi2.pdf(chi, width)

    truth = math.log(integrate.quad(integrand, 0, 1)[0] + integrate.quad(integrand, 1, 80)[0])
    check(
        evidence(process(kernels.Linear(), Wishart(width=width), rbf()), dataset(PAIR, PAIR_Y)),
        truth,
        error=0.2,
    )


@pytest.mark.slow
def test_two_points_and_an_inverse_wishart_against_quadrature():
    """(1, -1) G (1, -1)^T is inverse gamma, of shape (delta + 2) / 2 and scale delta / 2 times its
    value in K."""
    delta, distance = 4.0, float(np.sum((PAIR[0] - PAIR[1]) ** 2)) / 2
    law = stats.invgamma((delta + 2) / 2, scale=delta * distance / 2)
    truth = math.log(integrate.quad(lambda q: float(np.exp(pair_evidence(law.ppf(q)))), 0, 1)[0])
    model = process(kernels.Linear(), InverseWishart(delta=delta), rbf())
    check(evidence(model, dataset(PAIR, PAIR_Y)), truth, error=0.2)


@pytest.mark.slow
def test_five_points_and_five_features_against_the_prior():
    """A bottleneck between nonlinear kernels: the mean of the likelihood over many draws of
    features."""
    rng, width, draws = np.random.default_rng(5), 2, 200_000
    squared = np.sum((X[:, None] - X[None]) ** 2, -1) / 2
    features = (
        np.linalg.cholesky(np.exp(-squared / 2))
        @ rng.normal(size=(draws, 5, width))
        / math.sqrt(width)
    )
    gram = features @ features.transpose(0, 2, 1)
    own = np.diagonal(gram, axis1=1, axis2=2)
    covariance = np.exp(-(own[:, :, None] + own[:, None] - 2 * gram) / 2) + NOISE**2 * np.eye(5)
    quadratic = np.einsum("i,sij,j->s", Y, np.linalg.inv(covariance), Y)
    logs = -(np.linalg.slogdet(2 * np.pi * covariance)[1] + quadratic) / 2
    truth = special.logsumexp(logs) - math.log(draws)
    found = evidence(process(rbf(), Wishart(width=width), rbf()), dataset())
    check(found, truth, error=0.3)
    prediction = dkp.predict(found.posterior, X, key=jax.random.key(1))
    assert np.all(np.isfinite(prediction.log_density(Y)))


def test_pcn_agrees():
    model, data = process(kernels.Linear(), Wishart(width=3)), dataset(PAIR[:1], PAIR_Y[:1])
    check(evidence(model, data, move="pcn"), single_truth(), error=0.2)


@pytest.mark.slow
def test_a_wide_bottleneck_is_the_gaussian_process_and_rows_may_be_permuted():
    exact = dkp.condition(process(rbf(), rbf()), dataset()).log_marginal_likelihood
    wide = process(rbf(), Wishart(width=100_000), rbf())
    assert abs(evidence(wide, dataset()).log_evidence - exact) < 0.02
    narrow, order = process(rbf(), Wishart(width=2), rbf()), np.array([3, 0, 4, 2, 1])
    here, there = evidence(narrow, dataset()), evidence(narrow, dataset(X[order], Y[order]))
    error = math.hypot(here.standard_error, there.standard_error)
    assert abs(here.log_evidence - there.log_evidence) < 4 * error


# --- likelihoods that are not integrated out ------------------------------------------------------


class Explicit(likelihoods.Gaussian):
    """Gaussian noise whose latent functions stay among the unknowns."""

    is_gaussian = False

    def noise_variance(self, n_outputs):
        return None


class HalfNormal(dist.Normal):
    """No number where the mean is negative."""

    def log_prob(self, value):
        return jnp.where(self.loc > 0, super().log_prob(value), jnp.nan)


class Broken(Explicit):
    """A likelihood that is a number in half of the space."""

    def law(self, f):
        return HalfNormal(f, jnp.broadcast_to(jnp.asarray(self.noise, f.dtype), f.shape))


def test_latent_functions_among_the_unknowns():
    exact = dkp.condition(process(rbf()), dataset()).log_marginal_likelihood
    check(
        evidence(
            dkp.DeepKernelProcess(layers=[rbf()], likelihood=Explicit(noise=NOISE)), dataset()
        ),
        exact,
    )


def test_no_particle_goes_where_the_likelihood_is_no_number():
    model = dkp.DeepKernelProcess(layers=[rbf()], likelihood=Broken(noise=NOISE))
    y = np.array([[0.2]])
    truth = math.log(
        integrate.quad(lambda f: stats.norm.pdf(f) * stats.norm.pdf(0.2, loc=f, scale=NOISE), 0, 5)[
            0
        ]
    )
    found = evidence(model, dataset(PAIR[:1], y))
    check(found, truth, error=0.2)
    assert np.all(found.posterior.z > 0)


def test_a_likelihood_that_is_never_a_number_is_refused():
    model = dkp.DeepKernelProcess(layers=[rbf()], likelihood=Broken(noise=NOISE))
    data = dataset(RNG.normal(size=(40, 2)), np.zeros(40))
    with pytest.raises(ValueError, match="Expected a finite log-likelihood at some draw"):
        evidence(model, data, particles=64)


# --- how runs are combined ------------------------------------------------------------------------


def test_the_mean_is_of_estimates_and_not_of_logarithms():
    value, error = combine_runs(np.log([1.0, 3.0]), np.zeros(2))
    np.testing.assert_allclose(value, math.log(2))
    np.testing.assert_allclose(
        error, max(math.sqrt(2) / 2, math.log(3) / math.sqrt(2)) / math.sqrt(2)
    )


def test_runs_that_disagree_have_a_large_error():
    assert combine_runs(np.array([0.0, -30.0, -40.0, -35.0]), np.zeros(4))[1] > 8


def test_errors_within_runs_count_where_runs_agree_by_accident():
    assert combine_runs(np.zeros(4), np.full(4, 0.2))[1] == pytest.approx(0.1)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "particles"),
        ({"particles": 2.5}, "particles"),
        ({"runs": 0}, "runs"),
        ({"runs": 1}, "at least 2"),
        ({"move": "slice"}, "move"),
        ({"max_memory": math.nan}, "max_memory"),
        ({"max_memory": 1e4}, "bytes"),
    ],
)
@pytest.mark.usefixtures("_unchecked")
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evidence(process(rbf(), Wishart(width=2)), dataset(), **options)


def test_learned_hyperparameters_are_refused():
    model = process(rbf(dkp.learn()), Wishart(width=2), noise=dkp.learn())
    with pytest.raises(
        ValueError,
        match=r"Got learn\(\) for layers.0.lengthscale, likelihood.noise: give it a prior",
    ):
        evidence(model, dataset())


def test_real_widths_below_the_number_of_points_are_refused():
    with pytest.raises(ValueError, match="Expected Wishart"):
        evidence(process(rbf(), Wishart(width=2.5)), dataset())


@pytest.mark.usefixtures("_unchecked")
def test_other_things_than_models_and_keys_are_refused():
    with pytest.raises(ValueError, match="Expected model"):
        evidence("model", dataset())
    with pytest.raises(ValueError, match="Expected key"):
        log_evidence(process(rbf()), dataset(), key=3)
