"""What every likelihood obeys: a new likelihood is one more row of this table."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dkp
from dkp import likelihoods
from tests.support import relaxed

C, B = 2, 3
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(B, C))
COUNTS = np.array([[0.0, 3.0], [1.0, 0.0], [7.0, 2.0]])
BINARY = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
GRADES = np.array([[0.0, 3.0], [2.0, 1.0], [3.0, 0.0]])
LABELS = np.array([[0.0], [2.0], [1.0]])
CUTS = {"first": -0.7, "gaps": np.array([0.5, 1.2])}
REALS, COUNTED = np.linspace(-60, 60, 24_001), np.arange(4_000.0)
LIKELIHOODS = [
    # likelihood, targets, all values that a target may have, relative tolerance of quadrature
    (likelihoods.Gaussian(noise=0.4), REAL, REALS, 1e-8),
    (likelihoods.Gaussian(noise=np.array([0.4, 1.7]), per_output=True), REAL, REALS, 1e-8),
    (likelihoods.Heteroskedastic(noise=np.array([0.4, 1.7])), REAL, REALS, 1e-8),
    (
        likelihoods.StudentT(df=3.0, scale=np.array([0.5, 2.0])),
        REAL,
        np.sinh(np.linspace(-30, 30, 60_001)),
        2e-2,
    ),
    (likelihoods.Laplace(scale=np.array([0.5, 2.0])), REAL, REALS, 1e-5),
    (likelihoods.Bernoulli(), BINARY, np.arange(2.0), 1e-8),
    (likelihoods.Bernoulli(link="probit"), BINARY, np.arange(2.0), 1e-6),
    (likelihoods.Ordinal(4, **CUTS), GRADES, np.arange(4.0), 1e-8),
    (likelihoods.Categorical(3), LABELS, np.arange(3.0), 1e-8),
    (likelihoods.Poisson(rate=np.array([1.5, 0.7])), COUNTS, COUNTED, 1e-8),
    (
        likelihoods.NegativeBinomial(
            rate=np.array([1.5, 0.7]), concentration=np.array([0.8, 30.0])
        ),
        COUNTS,
        COUNTED,
        1e-8,
    ),
    (
        likelihoods.LinearCoregionalization(
            likelihoods.Gaussian(noise=0.4), 3, mixing=np.array([[1.0, -0.5, 0.2], [0.3, 0.0, 2.0]])
        ),
        REAL,
        REALS,
        1e-8,
    ),
    (
        likelihoods.ZeroInflatedPoisson(rate=np.array([1.5, 0.7]), gate=np.array([0.1, 0.6])),
        COUNTS,
        COUNTED,
        1e-6,
    ),
]
MEAN, VARIANCE = (
    jnp.asarray(RNG.normal(size=(B, 4))),
    jnp.asarray(RNG.uniform(0.1, 1.0, size=(B, 4))),
)
KEY = jax.random.key(0)
FINE = np.linspace(-9, 9, 4001), stats.norm.pdf(np.linspace(-9, 9, 4001))


def named(rows):
    return pytest.mark.parametrize(
        ("likelihood", "y", "values", "tolerance"), rows, ids=[repr(r[0]) for r in rows]
    )


rows = named(LIKELIHOODS)
pointwise = named(
    [row for row in LIKELIHOODS if isinstance(row[0], likelihoods.PointwiseLikelihood)]
)
sampled = named([row for row in LIKELIHOODS if isinstance(row[0], likelihoods.Categorical)])


def latent(likelihood, y):
    """Means and variances of as many latent functions as there are."""
    q = likelihood.n_latent(y.shape[1])
    return MEAN[:, :q], VARIANCE[:, :q]


@rows
def test_pytree_round_trip(likelihood, y, values, tolerance):
    leaves, structure = jax.tree.flatten(likelihood)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is type(likelihood) and jax.tree.structure(back) == structure


@rows
@pytest.mark.rows(4)
def test_conditional_has_one_law_a_row(likelihood, y, values, tolerance):
    f, _ = latent(likelihood, y)
    law = likelihood.conditional(f)
    assert law.batch_shape == (B,) and law.event_shape == y.shape[1:]
    with relaxed():
        sample = law.sample(KEY)
        assert sample.shape == y.shape and np.all(np.isfinite(law.log_prob(sample)))
    np.testing.assert_allclose(
        law.log_prob(jnp.asarray(y)), likelihood.log_density(jnp.asarray(y), f), rtol=1e-12
    )


@rows
def test_the_conditional_sums_to_one(likelihood, y, values, tolerance):
    law = likelihood.law(latent(likelihood, y)[0])
    with relaxed():
        density = np.exp(law.log_prob(jnp.asarray(values)[:, None, None]))
    whole_numbers = np.array_equal(values, np.arange(len(values)))
    total = density.sum(axis=0) if whole_numbers else np.trapezoid(density, values, axis=0)
    np.testing.assert_allclose(total, 1, atol=1e-4)


@rows
@pytest.mark.rows(4)
def test_expected_log_density_is_the_quadrature_of_the_conditional(
    likelihood, y, values, tolerance
):
    """Quadrature over all latent functions of an output at the same time: a fine grid, or a product
    of two rules."""
    if isinstance(likelihood, (likelihoods.Categorical, likelihoods.LinearCoregionalization)):
        pytest.skip("one is estimated from draws, the other mixes functions; both are tested below")
    mean, variance = latent(likelihood, y)
    # the outputs are independent: a node may serve all at the same time
    each = mean.shape[1] // y.shape[1]
    nodes, weights = FINE if each == 1 else np.polynomial.hermite_e.hermegauss(40)
    grid = np.array(list(itertools.product(nodes, repeat=each)))
    products = np.array([np.prod(w) for w in itertools.product(weights, repeat=each)])
    f = jnp.asarray(
        np.asarray(mean) + np.sqrt(variance) * np.repeat(grid, y.shape[1], axis=1)[:, None, :]
    )
    density = jax.vmap(lambda f: likelihood.log_density(jnp.asarray(y), f))(f)
    total = products @ np.asarray(density) / products.sum()
    found = likelihood.expected_log_density(jnp.asarray(y), mean, variance)
    np.testing.assert_allclose(found, total, rtol=tolerance)


@sampled
def test_expected_log_density_from_draws_has_no_bias(likelihood, y, values, tolerance):
    """2000 keys against a product of three Gauss-Hermite rules, |z| < 4.5 in three rows: false
    alarms in 1 of 49,000 runs."""
    mean, variance = latent(likelihood, y)
    nodes, weights = np.polynomial.hermite_e.hermegauss(25)
    weights = weights / np.sqrt(2 * np.pi)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 1, 3)
    products = np.prod(
        np.stack(np.meshgrid(weights, weights, weights, indexing="ij"), -1), -1
    ).reshape(-1, 1)
    density = jax.vmap(lambda f: likelihood.log_density(jnp.asarray(y), f))(
        jnp.asarray(np.asarray(mean) + np.sqrt(variance) * grid)
    )
    truth = np.sum(products * np.asarray(density), axis=0)
    estimate = jax.jit(
        jax.vmap(lambda key: likelihood.expected_log_density(jnp.asarray(y), mean, variance, key))
    )
    draws = np.asarray(estimate(jax.random.split(KEY, 2000)))
    z = (draws.mean(0) - truth) / (draws.std(0, ddof=1) / np.sqrt(2000))
    assert np.all(np.abs(z) < 4.5)


@sampled
def test_draws_need_a_key(likelihood, y, values, tolerance):
    with pytest.raises(ValueError, match="Expected a random key"):
        likelihood.expected_log_density(jnp.asarray(y), *latent(likelihood, y))


@pointwise
@pytest.mark.rows(3)
def test_predictive_is_the_integral_of_the_conditional(likelihood, y, values, tolerance):
    mean, variance = latent(likelihood, y)
    law = likelihood.predictive(mean, variance)
    assert law.batch_shape == y.shape
    grid, weight = FINE
    f = np.asarray(mean) + np.sqrt(variance) * grid[:, None, None]
    conditional = likelihood.law(jnp.asarray(f))

    def integral(of):
        return np.trapezoid(np.asarray(of) * weight[:, None, None], grid, axis=0)

    density = integral(np.exp(conditional.log_prob(jnp.broadcast_to(jnp.asarray(y), f.shape))))
    np.testing.assert_allclose(
        np.exp(law.log_prob(jnp.asarray(y))), density, rtol=max(tolerance, 5e-4)
    )
    centre = integral(conditional.mean)
    np.testing.assert_allclose(law.mean, centre, rtol=1e-6)
    spread = integral(conditional.variance + conditional.mean**2) - centre**2
    np.testing.assert_allclose(law.variance, spread, rtol=1e-6)


@pointwise
@pytest.mark.rows(3)
def test_samples_of_the_predictive_have_its_moments(likelihood, y, values, tolerance):
    """20,000 draws, |z| < 4.5 for six means; the largest of many draws of Student's law is too wild
    for more."""
    mean, variance = latent(likelihood, y)
    law = likelihood.predictive(mean, variance)
    with relaxed():
        draws = np.asarray(law.sample(KEY, (20_000,)), float)
    z = (draws.mean(0) - law.mean) / np.sqrt(np.asarray(law.variance) / 20_000)
    assert draws.shape == (20_000, *y.shape) and np.all(np.abs(z) < 4.5)


@pointwise
@pytest.mark.rows(3)
def test_the_distribution_function_is_the_integral_of_the_density(likelihood, y, values, tolerance):
    law = likelihood.predictive(*latent(likelihood, y))
    if law.support.is_discrete:
        return
    grid = np.linspace(-300, 1.0, 60_001)
    density = np.exp(jax.vmap(law.log_prob)(jnp.asarray(grid)))
    np.testing.assert_allclose(
        law.cdf(jnp.ones(())), np.trapezoid(density, grid, axis=0), atol=1e-4
    )


@rows
def test_noise_variance_is_what_is_added_to_the_latent_variance(likelihood, y, values, tolerance):
    noise = likelihood.noise_variance(C)
    assert (noise is not None) == likelihood.is_gaussian
    if noise is not None:
        mean, variance = latent(likelihood, y)
        law = likelihood.predictive(mean, variance)
        np.testing.assert_allclose(law.variance, variance + noise[None, :], rtol=1e-12)


@rows
@pytest.mark.rows(4)
def test_missing_targets_have_no_part(likelihood, y, values, tolerance):
    """The density of the others, and gradients without NaN."""
    mean, variance = latent(likelihood, y)
    holes = y.copy()
    holes[1, -1] = np.nan
    with_holes, complete = jnp.asarray(holes), jnp.asarray(y)

    def total(y, mean, variance):
        return jnp.sum(likelihood.expected_log_density(y, mean, variance, KEY))

    lost = likelihood.expected_log_densities(complete, mean, variance, KEY)[1, -1]
    np.testing.assert_allclose(
        total(with_holes, mean, variance), total(complete, mean, variance) - lost, rtol=1e-10
    )
    by_hand = np.asarray(likelihood.law(mean).log_prob(complete)).sum(axis=1)
    by_hand[1] -= likelihood.law(mean).log_prob(complete)[1, -1]
    np.testing.assert_allclose(likelihood.log_density(with_holes, mean), by_hand, rtol=1e-10)
    slopes = jax.grad(total, (1, 2))(with_holes, mean, variance)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    if isinstance(likelihood, likelihoods.LinearCoregionalization):
        return  # every output depends on all functions
    outputs = np.arange(mean.shape[1]) % y.shape[1] == y.shape[1] - 1
    np.testing.assert_array_equal(slopes[0][1, outputs], 0)


@rows
@pytest.mark.rows(4)
def test_float32_stays_float32(likelihood, y, values, tolerance):
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), likelihood)
    mean, variance, targets = (jnp.asarray(a, jnp.float32) for a in (*latent(likelihood, y), y))
    value = single.expected_log_density(targets, mean, variance, KEY)
    assert value.shape == (B,) and value.dtype == jnp.float32
    if not isinstance(likelihood, likelihoods.Categorical):  # its draws are others in float32
        exact = likelihood.expected_log_density(jnp.asarray(y), *latent(likelihood, y))
        np.testing.assert_allclose(value, exact, rtol=2e-5)
    assert single.conditional(mean).log_prob(targets).dtype == jnp.float32


@rows
@pytest.mark.rows(4)
def test_gradients_are_those_of_finite_differences(likelihood, y, values, tolerance):
    targets, (mean, variance) = jnp.asarray(y), latent(likelihood, y)
    resolved = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), likelihood)

    @jax.jit
    @jax.value_and_grad
    def along(t):
        moved = jax.tree.map(lambda a: a * (1 + 0.3 * t), resolved)
        return jnp.sum(
            moved.expected_log_density(targets, mean + 0.7 * t, variance * (1 + t / 2), KEY)
        )

    h = 1e-5
    np.testing.assert_allclose(
        along(0.0)[1], (along(h)[0] - along(-h)[0]) / (2 * h), rtol=1e-5, atol=1e-7
    )


# --- one by one -----------------------------------------------------------------------------------


def test_laws_are_those_of_scipy():
    f = np.asarray(MEAN[:, :C])
    rate = np.array([1.5, 0.7])
    poisson = likelihoods.Poisson(rate=rate).law(jnp.asarray(f)).log_prob(COUNTS)
    np.testing.assert_allclose(poisson, stats.poisson(rate * np.exp(f)).logpmf(COUNTS), rtol=1e-10)
    mean, shape = rate * np.exp(f), np.array([0.8, 30.0])
    negative = (
        likelihoods.NegativeBinomial(rate=rate, concentration=shape)
        .law(jnp.asarray(f))
        .log_prob(COUNTS)
    )
    np.testing.assert_allclose(
        negative, stats.nbinom(shape, shape / (shape + mean)).logpmf(COUNTS), rtol=1e-9
    )
    student = (
        likelihoods.StudentT(df=3.0, scale=np.array([0.5, 2.0])).law(jnp.asarray(f)).log_prob(REAL)
    )
    np.testing.assert_allclose(student, stats.t(3.0, f, [0.5, 2.0]).logpdf(REAL), rtol=1e-10)
    probit = likelihoods.Bernoulli(link="probit").law(jnp.asarray(f)).log_prob(BINARY)
    np.testing.assert_allclose(probit, stats.norm.logcdf(f * (2 * BINARY - 1)), rtol=1e-9)


def test_ordinal_is_a_difference_of_logistic_functions_and_does_not_cancel():
    likelihood = likelihoods.Ordinal(4, **CUTS)
    cuts, f = np.array([-np.inf, -0.7, -0.2, 1.0, np.inf]), np.asarray(MEAN[:, :C])
    truth = stats.logistic.cdf(cuts[1:] - f[..., None]) - stats.logistic.cdf(
        cuts[:-1] - f[..., None]
    )
    np.testing.assert_allclose(likelihood.law(jnp.asarray(f)).probs, truth, rtol=1e-10)
    far = likelihood.law(jnp.asarray([[800.0]])).log_prob(1.0)
    np.testing.assert_allclose(far, -800 - 0.2 + np.log(1 - np.exp(-0.5)), rtol=1e-6)


def test_cut_points_start_at_the_shares_of_the_classes():
    labels = jnp.asarray(np.repeat([0.0, 1.0, 2.0], [50, 30, 20])[:, None])
    likelihood = likelihoods.Ordinal(3)
    start = likelihood.initial_values(jnp.zeros((100, 1)), labels)
    found = likelihoods.Ordinal(3, **start).law(jnp.zeros((1, 1))).probs[0, 0]
    np.testing.assert_allclose(found, [0.5, 0.3, 0.2], atol=0.01)


def test_heteroskedastic_noise_is_a_latent_function():
    f = jnp.asarray([[1.0, 2.0, 0.0, np.log(3.0)]])
    law = likelihoods.Heteroskedastic(noise=np.array([0.5, 0.5])).law(f)
    np.testing.assert_allclose(law.mean, [[1.0, 2.0]])
    np.testing.assert_allclose(law.variance, [[0.25, 2.25]], rtol=1e-12)


def test_mixtures_of_latent_functions():
    """Moments of W f, and the Gaussian law of y that follows: a fit of two outputs by one
    function."""
    mixing = np.array([[1.0], [-2.0]])
    likelihood = likelihoods.LinearCoregionalization(
        likelihoods.Gaussian(noise=0.4), 1, mixing=mixing
    )
    assert (
        likelihood.n_latent(2) == 1
        and likelihood.standardises_targets
        and not likelihood.is_gaussian
    )
    law = likelihood.predictive(jnp.asarray([[0.5]]), jnp.asarray([[0.3]]))
    np.testing.assert_allclose(law.mean, [[0.5, -1.0]])
    np.testing.assert_allclose(law.variance, [[0.3 + 0.16, 1.2 + 0.16]])
    found = likelihood.expected_log_density(
        jnp.asarray([[0.2, 0.1]]), jnp.asarray([[0.5]]), jnp.asarray([[0.3]])
    )
    truth = stats.norm.logpdf([0.2, 0.1], [0.5, -1.0], 0.4).sum() - (0.3 + 1.2) / (2 * 0.16)
    np.testing.assert_allclose(found, [truth])


def test_mixing_starts_at_principal_components():
    function = RNG.normal(size=(200, 1))
    y = function @ np.array([[2.0, -1.0, 0.5]])
    likelihood = likelihoods.LinearCoregionalization(likelihoods.Gaussian(), 4)
    start = np.asarray(likelihood.initial_values(jnp.zeros((200, 1)), jnp.asarray(y))["mixing"])
    assert start.shape == (3, 4)
    np.testing.assert_allclose(np.abs(start[:, 0]), [2.0, 1.0, 0.5], rtol=0.2)
    np.testing.assert_allclose(start[:, 3], 0.1)


def test_student_noise_with_many_degrees_of_freedom_is_gaussian():
    mean, variance = MEAN[:, :C], VARIANCE[:, :C]
    student = likelihoods.StudentT(df=1e7, scale=0.9).expected_log_density(
        jnp.asarray(REAL), mean, variance
    )
    gaussian = likelihoods.Gaussian(noise=0.9).expected_log_density(
        jnp.asarray(REAL), mean, variance
    )
    np.testing.assert_allclose(student, gaussian, rtol=1e-5)


BAD_TARGETS = {
    "half a count": (likelihoods.Poisson(), [[0.5]], "Poisson to be non-negative integers"),
    "negative count": (
        likelihoods.NegativeBinomial(),
        [[-1.0]],
        "NegativeBinomial to be non-negative integers",
    ),
    "third class of two": (
        likelihoods.Bernoulli(),
        [[2.0]],
        "Bernoulli to be integers from 0 to 1",
    ),
    "unknown class": (
        likelihoods.Categorical(3),
        [[3.0]],
        "Categorical to be integers from 0 to 2",
    ),
    "two columns of classes": (
        likelihoods.Categorical(3),
        [[1.0, 2.0]],
        "one column of class labels",
    ),
    "unknown grade": (likelihoods.Ordinal(3), [[-1.0]], "Ordinal to be integers from 0 to 2"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_targets_without_a_density(case):
    likelihood, y, message = BAD_TARGETS[case]
    with pytest.raises(ValueError, match=message):
        likelihood.check_targets(np.asarray(y))
    likelihood.check_targets(np.array([[0.0], [np.nan]]))


def test_standardised_counts_are_refused():
    data = dkp.Dataset.from_arrays(np.arange(6.0), np.arange(6.0))
    model = dkp.DeepKernelProcess(
        layers=[dkp.kernels.SquaredExponential()], likelihood=likelihoods.Poisson()
    )
    with pytest.raises(
        ValueError, match=r"Expected targets as they are for Poisson.*standardize_targets=False"
    ):
        dkp.fit_vi(model, data, key=KEY)


BAD_HYPERPARAMETERS = {
    "Gaussian(noise": lambda bad: likelihoods.Gaussian(noise=bad),
    "Heteroskedastic(noise": lambda bad: likelihoods.Heteroskedastic(noise=bad),
    "StudentT(df": lambda bad: likelihoods.StudentT(df=bad),
    "StudentT(scale": lambda bad: likelihoods.StudentT(scale=bad),
    "Laplace(scale": lambda bad: likelihoods.Laplace(scale=bad),
    "Ordinal(gaps": lambda bad: likelihoods.Ordinal(3, gaps=bad),
    "Poisson(rate": lambda bad: likelihoods.Poisson(rate=bad),
    "NegativeBinomial(concentration": lambda bad: likelihoods.NegativeBinomial(concentration=bad),
}


@pytest.mark.parametrize("name", BAD_HYPERPARAMETERS)
@pytest.mark.parametrize("bad", [0.0, -0.1, float("inf"), float("nan")])
def test_hyperparameters_outside_their_domains(name, bad):
    with pytest.raises(
        ValueError,
        match=rf"Expected {name.replace('(', chr(92) + '(')}=…\) to be finite and positive",
    ):
        BAD_HYPERPARAMETERS[name](bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.Bernoulli(link="cauchit"), "Expected link to be"),
        (
            lambda: likelihoods.LinearCoregionalization(likelihoods.Categorical(3), 2),
            "Expected likelihood to be one of outputs",
        ),
        (
            lambda: likelihoods.LinearCoregionalization(likelihoods.Gaussian(), 0),
            "Expected n_functions",
        ),
        (lambda: likelihoods.Categorical(1), "Expected n_classes to be at least 2"),
        (lambda: likelihoods.Ordinal(2), "Expected n_classes to be at least 3"),
        (
            lambda: likelihoods.ZeroInflatedPoisson(gate=1.5),
            r"ZeroInflatedPoisson\(gate=…\) to be finite and unit",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gaussian_noise_starts_below_the_residual_of_a_linear_fit():
    x = jnp.asarray(RNG.normal(size=(500, 3)))
    y = x @ jnp.array([[1.0], [-2.0], [0.5]]) + 0.6 * RNG.normal(size=(500, 1))
    start = likelihoods.Gaussian().initial_values(x, y)["noise"]
    assert 0.25 < start < 0.35
    # even where the fit is perfect
    assert likelihoods.Gaussian().initial_values(x, x[:, :1])["noise"] == 0.05
    assert np.isfinite(likelihoods.Gaussian().initial_values(x[:1], y[:1])["noise"])
    holes = y.at[::7].set(jnp.nan)
    assert 0.25 < likelihoods.Gaussian().initial_values(x, holes)["noise"] < 0.35


@pytest.mark.parametrize("base", [likelihoods.Likelihood, likelihoods.PointwiseLikelihood])
def test_an_incomplete_likelihood_cannot_be_made_and_says_what_is_missing(base):
    class Incomplete(base):
        pass

    with pytest.raises(TypeError, match="abstract method.*law"):
        Incomplete()
