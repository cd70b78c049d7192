"""Whitening and augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

from dkp.data.preprocessing import random_flips, random_shifts, zca

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)) @ RNG.normal(size=(5, 5)) + [1, 2, 3, 4, 5]
IMAGES = RNG.normal(size=(30, 4, 3, 2))


def test_without_regularisation_the_covariance_is_the_identity():
    whitened = zca(X, eps=0.0).apply(X)
    np.testing.assert_allclose(whitened.T @ whitened / 40, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-12)


def test_it_is_the_inverse_root_of_the_regularised_covariance():
    fitted, centred = zca(X, eps=0.3), X - X.mean(0)
    covariance = centred.T @ centred / 40
    root = linalg.sqrtm(covariance + 0.3 * np.trace(covariance) / 5 * np.eye(5))
    np.testing.assert_allclose(fitted.matrix @ root, np.eye(5), atol=1e-10)
    new = RNG.normal(size=(3, 5))
    np.testing.assert_allclose(
        fitted.apply(new), (new - X.mean(0)) @ np.linalg.inv(root), rtol=1e-8
    )


def test_much_regularisation_only_centres_and_scales():
    matrix = zca(X, eps=1e8).matrix
    np.testing.assert_allclose(matrix / matrix[0, 0], np.eye(5), atol=1e-6)


def test_units_do_not_matter():
    np.testing.assert_allclose(zca(1e3 * X, 0.1).apply(1e3 * X), zca(X, 0.1).apply(X), rtol=1e-9)


def test_images_keep_their_shape():
    fitted = zca(IMAGES, eps=0.1)
    assert fitted.apply(IMAGES).shape == IMAGES.shape
    np.testing.assert_allclose(
        fitted.apply(IMAGES).reshape(30, -1),
        zca(IMAGES.reshape(30, -1), 0.1).apply(IMAGES.reshape(30, -1)),
    )


def test_flips_are_half_of_the_images():
    """400 images: a fair coin, two-sided false-alarm rate 1e-4."""
    images = jnp.asarray(np.repeat(IMAGES[:1], 400, axis=0))
    flipped = np.asarray(random_flips(jax.random.key(0), images))
    mirrored = np.array([np.array_equal(f, IMAGES[0, :, ::-1]) for f in flipped])
    assert np.all(mirrored | np.array([np.array_equal(f, IMAGES[0]) for f in flipped]))
    assert stats.binomtest(int(mirrored.sum()), 400).pvalue > 1e-4


def test_shifts_are_uniform():
    """450 shifts over 9 offsets: chi-squared, false-alarm rate 1e-4."""
    image = np.zeros((1, 5, 5, 1))
    image[0, 2, 2] = 1.0
    moved = np.asarray(
        random_shifts(jax.random.key(0), jnp.asarray(np.repeat(image, 450, axis=0)), pixels=1)
    )
    np.testing.assert_array_equal(moved.sum((1, 2, 3)), 1)
    counts = moved.sum((0, 3))[1:4, 1:4]
    assert counts.sum() == 450 and stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_pixels_that_leave_are_lost():
    moved = np.asarray(random_shifts(jax.random.key(1), jnp.ones((50, 3, 3, 1)), pixels=2))
    assert set(np.unique(moved)) == {0.0, 1.0} and moved.sum((1, 2, 3)).min() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zca(X, eps=-1.0), "eps"),
        (lambda: zca(X[:3], eps=0.0), "raise eps"),
        (lambda: zca(np.ones((4, 2))), "positive definite"),
        (lambda: zca(np.full((4, 2), np.nan)), "finite"),
        (lambda: zca(X).apply(X[:, :2]), "5 numbers"),
        (lambda: random_shifts(jax.random.key(0), jnp.ones((2, 3, 3, 1)), pixels=0), "pixels"),
        (lambda: random_shifts(jax.random.key(0), jnp.ones((2, 3))), "images of shape"),
        (lambda: random_flips(jax.random.key(0), jnp.ones((2, 3))), "images of shape"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match="Expected .*Got ") as caught:
        call()
    assert message in str(caught.value)
