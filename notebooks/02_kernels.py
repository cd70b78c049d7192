# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From an architecture to its kernels
#
# An infinitely wide network with random weights is a Gaussian process. Its covariance, the *NNGP
# kernel*, is computed layer by layer: a dense layer maps $K$ to $\sigma_w^2 K + \sigma_b^2$, an
# activation maps it to $\mathbb{E}[\phi(u)\phi(v)]$ over $(u, v) \sim \mathcal{N}(0, K)$. The same
# network trained by gradient descent is linear in its weights, and is governed by the *neural
# tangent kernel*. Both follow from one list of layers, without training anything. The same layers
# stand between the bottlenecks of a deep kernel process.
#
# This notebook needs no network and takes about a minute on two cores.

# %%
import warnings

import jax

jax.config.update("jax_enable_x64", True)  # double precision, before any array exists
warnings.filterwarnings("ignore", message="IProgress not found")

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import dkp
from dkp import kernels, likelihoods, plots

plt.rcParams["figure.dpi"] = 60
rng, key = np.random.default_rng(0), jax.random.key(0)

# %% [markdown]
# ## Two kernels of one network
#
# Three hidden layers of rectifiers. Points on a circle have the same variance everywhere, so that a
# kernel is a function of the angle between them. The variances of weights and biases are the
# arguments of `Affine`; the first layer acts on $x x^\top / D$.

# %%
layers = [*[kernels.Affine(2.0, 0.1), kernels.ReLU()] * 3, kernels.Affine(1.0)]
angle = np.linspace(0, np.pi, 100)
circle = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
nngp, ntk = (kernel(layers, circle[:1], circle)[0] for kernel in (dkp.nngp_kernel, dkp.ntk_kernel))

# %% [markdown]
# How wide is wide? The covariance of the outputs of finite random networks is the mean of a noisy
# kernel, whose deviation from the limit shrinks like $1/\sqrt{\text{width}}$.


# %%
def random_network_kernel(x, width):
    """The kernel of one finite network with random weights, before its last layer."""
    h = x * np.sqrt(2 / x.shape[1])
    for _ in range(3):
        weights, biases = (
            rng.normal(size=(h.shape[1], width)),
            np.sqrt(0.1) * rng.normal(size=width),
        )
        h = np.sqrt(2 / width) * np.maximum(h @ weights + biases, 0)
    return h @ h.T / 2


figure, ax = plt.subplots(figsize=(6, 3.5))
for width, colour in ((16, "C2"), (256, "C1")):
    for draw in range(5):
        sampled = random_network_kernel(circle, width)[0]
        ax.plot(
            angle,
            sampled,
            colour,
            alpha=0.4,
            label=f"one network, width {width}" if draw == 0 else None,
        )
ax.plot(angle, nngp, "k", linewidth=2, label="NNGP kernel, infinite width")
ax.plot(angle, ntk / ntk[0] * nngp[0], "k--", label="tangent kernel, scaled")
ax.set(xlabel="angle between the points", ylabel="kernel")
_ = ax.legend()

# %% [markdown]
# ## Exact prediction
#
# `dkp.condition` gives the posterior of the infinitely wide Bayesian network; `dkp.gradient_flow`
# the law of an ensemble of networks trained by gradient descent from random starts, at any time of
# training. Early on the ensemble is its prior; at the end every member interpolates the targets,
# and the ensemble is *not* the Bayesian posterior.

# %%
x = np.sort(rng.uniform(-2, 2, 12))[:, None]
y = np.sin(3 * x[:, 0]) + 0.05 * rng.normal(size=12)
model = dkp.DeepKernelProcess(
    layers=[*[kernels.Affine(2.0, 0.5), kernels.ReLU()] * 3, kernels.Affine(1.0)],
    likelihood=likelihoods.Gaussian(0.05),
)
data = dkp.Dataset.from_arrays(x, y)
flow = dkp.gradient_flow(model, data)
posteriors = {
    "trained for t = 0.1": flow.at(0.1),
    "t = 3": flow.at(3.0),
    "trained to the end": flow,
    "Bayesian network": dkp.condition(model, data),
}
grid = np.linspace(-3, 3, 200)[:, None]
figure, axes = plt.subplots(1, 4, figsize=(12, 2.8), sharey=True)
for ax, (name, posterior) in zip(axes, posteriors.items(), strict=True):
    plots.band(ax, grid, dkp.predict(posterior, grid, key=key), level=0.9)
    ax.plot(x, y, "k.")
    ax.set(title=name, xlabel="x", ylim=(-3, 3))

# %% [markdown]
# One decomposition of the kernel matrix serves all times, all regularisations and leave-one-out
# prediction. Its smallest eigenvalue says whether the number of points is beyond what the
# floating-point width can resolve; a warning appears where it is.

# %%
flow.summary()

# %% [markdown]
# Stopping early acts like a ridge: gradient flow for a time $t$ multiplies the component of $y$
# along an eigenvector by $1 - e^{-\lambda t}$, a ridge $\epsilon$ by $\lambda / (\lambda +
# \epsilon)$, and $\epsilon = 1 / t$ makes them agree for small $\lambda$.

# %%
tangent = dkp.ntk_kernel(model, data.x)
stopped = dkp.predict(flow.at(3.0), grid, key=key)
regularised = dkp.predict(flow.with_diag_reg(dkp.diag_reg_of_time(3.0, tangent)), grid, key=key)
print(f"largest difference of the means {np.abs(stopped.mean - regularised.mean).max():.2f}")
print(f"largest mean {np.abs(stopped.mean).max():.2f}")

# %% [markdown]
# ## Your own activation
#
# `Activation(fn)` takes any elementwise function, expands it in Hermite polynomials and states its
# error. With the error function it must give what `Erf` knows in closed form.

# %%
own = kernels.Activation(jax.scipy.special.erf)
closed, by_quadrature = (
    dkp.nngp_kernel([kernels.Affine(2.0, 0.1), k, kernels.Affine()], x)
    for k in (kernels.Erf(), own)
)
print(f"largest difference to the closed form: {np.abs(closed - by_quadrature).max():.1e}")

bump = kernels.Activation(lambda u: u * jnp.exp(-(u**2)))
draws = rng.multivariate_normal(
    np.zeros(200), dkp.nngp_kernel([kernels.Affine(30.0, 3.0), bump], grid), size=4
)
figure, ax = plt.subplots(figsize=(5, 2.5))
ax.plot(grid[:, 0], draws.T)
_ = ax.set(title="infinitely wide networks with u exp(-u²)", xlabel="x")

# %% [markdown]
# ## Convolutions
#
# Images are arrays of shape (N, height, width, channels). `Flatten` before the last layer needs
# only covariances between the same locations of two images; `GlobalAvgPool` needs all pairs of
# locations, and makes the kernel blind to translations. Classification is regression on centred
# one-hot codes; `dkp.calibrate` turns it into probabilities, with a temperature and a
# regularisation chosen by leave-one-out prediction.

# %%
digits = dkp.datasets.load("digits", split=0)
train, test = (a.reshape(-1, 8, 8, 1)[:200] for a in (digits.x, digits.x_test))
labels, test_labels = digits.y[:200], digits.y_test[:100]
convolution = [kernels.Conv(3, weight_var=2.0, bias_var=0.01), kernels.ReLU()]
tops = {
    "dense": [
        kernels.Flatten(),
        *[kernels.Affine(2.0, 0.01), kernels.ReLU()] * 2,
        kernels.Affine(),
    ],
    "convolutions, flatten": [*convolution * 2, kernels.Flatten(), kernels.Affine()],
    "convolutions, pooling": [*convolution * 2, kernels.GlobalAvgPool(), kernels.Affine()],
}
images = dkp.Dataset.from_labels(train, labels)
for name, network in tops.items():
    network = dkp.DeepKernelProcess(layers=network, likelihood=likelihoods.Gaussian(1e-3))
    for engine in (dkp.condition, dkp.gradient_flow):
        classifier = dkp.calibrate(engine(network, images), diag_reg=np.logspace(-6, 0, 7))
        probabilities = classifier.probabilities(test[:100])
        right = np.asarray(classifier.classes)[probabilities.argmax(1)] == test_labels
        density = np.log(probabilities[np.arange(100), test_labels]).mean()
        print(
            f"{name:22} {engine.__name__:14} accuracy {right.mean():.2f}   log density "
            f"{density:.2f}"
        )

# %% [markdown]
# Two hundred training images are few enough that augmentation helps: an ensemble of predictors,
# each fitted to its own randomly shifted copy of the training set, costs a multiple of one
# predictor instead of a power of it.

# %%
network = dkp.DeepKernelProcess(
    layers=tops["convolutions, flatten"], likelihood=likelihoods.Gaussian(1e-3)
)
augmented = dkp.fit_augmented(
    lambda data: dkp.condition(network, data, diag_reg=1e-2),
    images,
    lambda key, x: dkp.preprocessing.random_shifts(key, x, pixels=1),
    key=key,
    copies=4,
)
print(f"accuracy {np.mean(dkp.calibrate(augmented).classify(test[:100]) == test_labels):.2f}")

# %% [markdown]
# ## Where the representation is learned
#
# All kernels above are fixed before the data are seen. Put a bottleneck between the layers, and the
# kernel itself becomes random and is inferred; see [the first notebook](01_quickstart.ipynb).

# %%
dkp.DeepKernelProcess(
    layers=[*convolution, kernels.Flatten(), dkp.InverseWishart(), kernels.SquaredExponential()],
    likelihood=likelihoods.Gaussian(),
)
