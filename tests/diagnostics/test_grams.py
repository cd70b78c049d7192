"""Gram matrices of draws, against numpy's linear algebra and the kernels' formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dkp
from dkp import kernels, likelihoods
from dkp.diagnostics import grams
from dkp.gram.alignment import centred_alignment
from dkp.model.outputs import OutputLaw
from dkp.posterior.draw import Draw
from dkp.posterior.rows import moments_row_by_row

RNG = np.random.default_rng(3)
N_DRAWS, P, N = 3, 5, 12


@dataclasses.dataclass(frozen=True)
class GivenPosterior:
    """A posterior whose draws are given."""

    model: dkp.DeepKernelProcess
    data: dkp.Dataset
    draws: Draw

    def sample(self, key, n):
        return self.draws

    def latent_moments(self, draws, key, x, chunk):
        return moments_row_by_row(self.model, self.data.n_outputs, draws, key, x, chunk)

    def summary(self):
        return {"engine": "given"}


def squared_exponential(gram, lengthscale):
    d = np.diagonal(gram)
    return np.exp(-(d[:, None] - 2 * gram + d[None, :]) / (2 * lengthscale**2))


@pytest.fixture(scope="module")
def posterior():
    model = dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(),
            kernels.SquaredExponential(lengthscale=1.5, variance=1.0),
            dkp.InverseWishart(delta=4.0),
            kernels.SquaredExponential(lengthscale=dkp.learn(1.0), variance=1.0),
        ],
        likelihood=likelihoods.Gaussian(noise=0.5),
    )
    data = dkp.Dataset.from_arrays(RNG.normal(size=(N, 2)), RNG.normal(size=N))
    return GivenPosterior(model, data, stack(RNG.normal(size=(P, 2))))


def stack(inducing):
    """Draws with random hyperparameters and factors at the given inducing points."""
    size = len(inducing)
    return jax.tree.map(
        lambda *arrays: jnp.stack(arrays),
        *[
            Draw(
                values={"layers.3.lengthscale": jnp.asarray(RNG.uniform(0.5, 2))},
                inducing=jnp.asarray(inducing),
                factors=(jnp.asarray(np.tril(RNG.normal(size=(size, size))) + 3 * np.eye(size)),),
                outputs=OutputLaw(weights=jnp.zeros((size, 1)), removed=jnp.zeros((size, size))),
            )
            for _ in range(N_DRAWS)
        ],
    )


def test_gram_draws_are_the_formulas(posterior):
    draws = posterior.draws
    found = grams.gram_draws(posterior, draws)
    z, s = np.asarray(draws.inducing[0]), np.asarray(draws.factors[0])
    lengthscales = np.asarray(draws.values["layers.3.lengthscale"])
    first = squared_exponential(z @ z.T / 2, 1.5)
    learned = [
        s @ s.swapaxes(1, 2),
        [squared_exponential(f @ f.T, c) for f, c in zip(s, lengthscales, strict=True)],
    ]
    fixed = [[first] * N_DRAWS, [squared_exponential(first, c) for c in lengthscales]]
    for got, truth in ((found.learned, learned), (found.fixed, fixed)):
        for a, b in zip(got, truth, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_label_alignment_is_that_of_the_projected_matrices(posterior):
    draws = stack(posterior.data.x)
    found = grams.label_alignment(posterior, draws, key=jax.random.key(0))
    learned = grams.gram_draws(posterior, draws).learned
    truth = [
        [alignment(np.asarray(m), np.asarray(posterior.data.y)) for m in layer] for layer in learned
    ]
    # Where the inducing points are the data, little is random: the jitter of K (1e-11) enters as
    # its square root.
    np.testing.assert_allclose(found, np.transpose(truth), rtol=5e-3)


def alignment(gram, labels):
    h = np.eye(len(gram)) - 1 / len(gram)
    a, b = h @ gram @ h, h @ labels @ labels.T @ h
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


@pytest.mark.parametrize("shape", [(7, 7), (7, 3), (4, 9)])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_centred_alignment_is_its_definition(shape, n_outputs):
    f, y = RNG.normal(size=shape) + 2, RNG.normal(size=(shape[0], n_outputs)) - 3
    np.testing.assert_allclose(
        centred_alignment(jnp.asarray(f), jnp.asarray(y)), alignment(f @ f.T, y), rtol=1e-10
    )


def test_centred_alignment_of_a_matrix_with_itself_is_one():
    y = jnp.asarray(RNG.normal(size=(6, 2)))
    np.testing.assert_allclose(centred_alignment(3 * y + 1, y), 1, rtol=1e-12)


@pytest.mark.parametrize("width", [1, 3, 6])
def test_summaries_are_those_of_the_eigenvalues(width):
    factor = np.tril(RNG.normal(size=(4, 6, width))) + 2 * np.eye(6, width)
    eigenvalues = np.linalg.eigvalsh(factor @ factor.swapaxes(1, 2))[:, -width:]
    share = eigenvalues / eigenvalues.sum(1, keepdims=True)
    found = grams.gram_summaries(jnp.asarray(factor))
    np.testing.assert_allclose(found["log_det"], np.log(eigenvalues).sum(1), rtol=1e-8)
    np.testing.assert_allclose(found["trace"], np.sum(factor**2, axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(
        found["effective_rank"], np.exp(-np.sum(share * np.log(share), axis=1)), rtol=1e-8
    )


def test_effective_rank_counts_equal_directions():
    factor = np.linalg.qr(RNG.normal(size=(2, 8, 8)))[0][:, :, :5]
    np.testing.assert_allclose(grams.gram_summaries(factor)["effective_rank"], 5, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.eye(3), np.full((1, 2, 2), np.nan)])
def test_summaries_refuse_what_is_no_stack_of_factors(bad):
    with pytest.raises(ValueError, match="Expected factor"):
        grams.gram_summaries(bad)
