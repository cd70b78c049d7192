"""Calibration: over 50 simulated data sets, the 90% intervals of latent functions hold the truth
nine times in ten.

Functions are drawn from the prior and targets from NumPy's laws, with the hyperparameters of the
model. The coverage of a data set is a mean over its test points and functions; that of a
likelihood, the mean c of 50 of them, has the standard error s. For an exact posterior |c - 0.9| <
4.5 s fails once in 150,000 seeds. The variational one is Gaussian, where the posterior is not, so
0.03 is allowed beside. At these seeds c lies between 0.85 and 0.94, with s of 0.012 to 0.021, but
for heteroskedastic noise: 0.81, too narrow for the logarithm of the noise."""

import jax
import numpy as np
import pytest
from scipy import stats

import dkp
from dkp import kernels, likelihoods
from tests.support import relaxed

REPLICATIONS, TRAIN, TEST, LENGTHSCALE = 50, 30, 8, 0.7
MIXING = np.array([[1.0, 0.0], [0.7, -0.7], [0.3, 0.9]])
POINTS = np.sort(np.random.default_rng(0).uniform(-2, 2, TRAIN + TEST))
HELD_OUT = np.linspace(2, TRAIN + TEST - 3, TEST).astype(int)


def ordinal(rng, f):
    return np.digitize(f + rng.logistic(size=f.shape), [-1.0, 1.0])


def categorical(rng, f):
    return np.argmax(f + rng.gumbel(size=f.shape), axis=-1)[..., None]


def heteroskedastic(rng, f):
    return f[..., :1] + 0.3 * np.exp(f[..., 1:]) * rng.normal(size=f[..., :1].shape)


CASES = {
    "Gaussian": (
        likelihoods.Gaussian(noise=0.3),
        lambda rng, f: f + 0.3 * rng.normal(size=f.shape),
    ),
    "heteroskedastic": (likelihoods.Heteroskedastic(noise=0.3), heteroskedastic),
    "Student t": (
        likelihoods.StudentT(df=3.0, scale=0.3),
        lambda rng, f: f + 0.3 * rng.standard_t(3, size=f.shape),
    ),
    "Laplace": (
        likelihoods.Laplace(scale=0.3),
        lambda rng, f: f + rng.laplace(scale=0.3, size=f.shape),
    ),
    "logit": (likelihoods.Bernoulli(), lambda rng, f: rng.logistic(size=f.shape) < f),
    "probit": (likelihoods.Bernoulli(link="probit"), lambda rng, f: rng.normal(size=f.shape) < f),
    "ordinal": (likelihoods.Ordinal(3, first=-1.0, gaps=[2.0]), ordinal),
    "categorical": (likelihoods.Categorical(3), categorical),
    "Poisson": (likelihoods.Poisson(rate=3.0), lambda rng, f: rng.poisson(3 * np.exp(f))),
    "negative binomial": (
        likelihoods.NegativeBinomial(rate=3.0, concentration=4.0),
        lambda rng, f: rng.negative_binomial(4.0, 4 / (4 + 3 * np.exp(f))),
    ),
    "zero-inflated": (
        likelihoods.ZeroInflatedPoisson(rate=3.0, gate=0.2),
        lambda rng, f: rng.poisson(3 * np.exp(f)) * (rng.uniform(size=f.shape) > 0.2),
    ),
    "mixed outputs": (
        likelihoods.LinearCoregionalization(
            likelihoods.Gaussian(noise=0.3), n_functions=2, mixing=MIXING
        ),
        lambda rng, f: f @ MIXING.T + 0.3 * rng.normal(size=(*f.shape[:-1], 3)),
    ),
}
FUNCTIONS = {"heteroskedastic": 2, "categorical": 3, "mixed outputs": 2}


def simulated(name):
    """Functions (50, N, Q) and targets (50, N, C) at all points."""
    rng = np.random.default_rng(list(CASES).index(name) + 1)
    covariance = np.exp(-0.5 * (POINTS[:, None] - POINTS) ** 2 / LENGTHSCALE**2) + 1e-9 * np.eye(
        len(POINTS)
    )
    e = rng.normal(size=(REPLICATIONS, len(POINTS), FUNCTIONS.get(name, 1)))
    f = np.linalg.cholesky(covariance) @ e
    return f, np.asarray(CASES[name][1](rng, f), float)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_intervals_hold_the_truth(name):
    likelihood = CASES[name][0]
    f, y = simulated(name)
    train = np.setdiff1d(np.arange(len(POINTS)), HELD_OUT)
    model = dkp.DeepKernelProcess(
        layers=[kernels.SquaredExponential(lengthscale=LENGTHSCALE, variance=1.0)],
        likelihood=likelihood,
    )
    with relaxed():
        data = [
            dkp.Dataset.from_arrays(POINTS[train, None], targets[train], standardize=False)
            for targets in y
        ]
        fits = dkp.fit_vi_many(
            model,
            data,
            key=jax.random.key(1),
            n_inducing=TRAIN,
            steps=400,
            start_steps=0,
            samples=4,
            progress=False,
        )
        found = [
            dkp.predict(fit, POINTS[HELD_OUT, None], key=jax.random.key(2), n_samples=2)
            for fit in fits
        ]
    mean = np.stack([np.asarray(p.latent_mean)[0] for p in found])
    deviation = np.sqrt(np.stack([np.asarray(p.latent_variance)[0] for p in found]))
    inside = np.abs(f[:, HELD_OUT] - mean) < stats.norm.ppf(0.95) * deviation
    coverage = inside.reshape(REPLICATIONS, -1).mean(axis=1)
    error = coverage.std(ddof=1) / np.sqrt(REPLICATIONS)
    assert 0.002 < error < 0.05
    assert abs(coverage.mean() - 0.9) < 4.5 * error + 0.03
    # And the intervals say something: they are narrower than those of the prior.
    assert deviation.mean() < 0.9
