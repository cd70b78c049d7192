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
# # Why bottlenecks
#
# As a network gets wide its kernel stops being random: it is the same before and after training, so
# nothing is learned about how inputs should be represented. A finite width, even in a single layer
# between infinite ones, makes the kernel random again, and what is random can be learned. This
# notebook shows it in closed form: the prior over kernels, where the posterior has them, which
# width the data prefer, and what a bottleneck does while a network is trained.
#
# It takes about 70 seconds on two cores, most of them for compilation.

# %%
import math
import warnings

import jax

jax.config.update("jax_enable_x64", True)
for message in ("IProgress not found", "ESS"):
    warnings.filterwarnings("ignore", message=message)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import dkp
from dkp import kernels, likelihoods, plots
from dkp.gram.alignment import centred_alignment
from dkp.theory import (
    bottleneck_dynamics,
    deep_linear,
    finite,
    marginal_priors,
    matrix_gig,
    representation_shift,
)

plt.rcParams["figure.dpi"] = 60
rng = np.random.default_rng(0)

# %% [markdown]
# ## The prior: wide networks have one kernel
#
# Take the Gram matrix $K_L = F F^\top / N_L$ of the last hidden layer of a linear network with
# random weights. Its mean is the Gram matrix of the inputs, for any widths. Its spread is known
# exactly, and here it stands beside draws of real networks.

# %%
x = rng.normal(size=(5, 4))
k0 = x @ x.T / 4
widths = np.array([2, 4, 8, 16, 32, 64, 128])


def spread(depth, width):
    """Standard deviation of one entry, in closed form."""
    covariance = deep_linear.gram_moments(k0, [int(width)] * depth)[1]
    return math.sqrt(covariance[0, 1, 0, 1])


def drawn(depth, width, n=4000):
    network = finite.Network((int(width),) * depth, lambda a: a)
    grams = network.sample_grams(jax.random.key(0), jnp.asarray(x), n)[-1]
    return float(np.std(grams[:, 0, 1]))


figure, axes = plt.subplots(figsize=(6, 3.2))
for depth, colour in ((1, "C0"), (3, "C1")):
    axes.loglog(widths, [spread(depth, w) for w in widths], colour, label=f"depth {depth}, exactly")
    axes.loglog(
        widths[:4],
        [drawn(depth, w) for w in widths[:4]],
        f"{colour}o",
        label="networks that were drawn",
    )
axes.set(xlabel="width", ylabel="standard deviation of a kernel entry")
axes.legend()
plt.show()

# %% [markdown]
# The spread falls as $1/\sqrt{N}$ and grows with depth. In the same measure outputs stop being
# Gaussian: a narrow network of rectifiers even puts probability on the output 0, where all of its
# units are off.

# %%
h = np.linspace(0.01, 6, 50)
figure, axes = plt.subplots(figsize=(6, 3.2))
for hidden in ([2, 2], [4, 4], [64, 64]):
    prior = marginal_priors.OutputPrior(hidden, "relu")
    label = f"widths {hidden}, P(h = 0) = {prior.atom:.2g}, kurtosis {prior.excess_kurtosis:.2f}"
    axes.semilogy(h, prior.density(h), label=label)
axes.semilogy(
    h, np.exp(-(h**2) / 2) / math.sqrt(2 * math.pi), "k--", label="infinite width: normal"
)
axes.set(xlabel="output h", ylabel="density", ylim=(1e-6, 1))
axes.legend()
plt.show()

# %% [markdown]
# ## The posterior: kernels move from the inputs' to the targets'
#
# With as many outputs as hidden units, all of them many, the posterior of a deep linear network has
# the Gram matrices
#
# $$K_l = K_0 \left(K_0^{-1} K_{L+1}\right)^{l / (L + 1)},$$
#
# a geometric interpolation. Wide layers move less: the widths decide where a network learns. In the
# infinite network, no layer moves at all.

# %%
labels = np.repeat([1.0, -1.0], [3, 3])
x = np.concatenate([rng.normal(size=(6, 8)) + 0.4 * labels[:, None]])
k0, target = x @ x.T / 8, np.outer(labels, labels) + 0.2 * np.eye(6)
chains = {
    "equal widths": deep_linear.posterior_grams(k0, target, [50, 50, 50, 50]).grams,
    "a bottleneck second": deep_linear.posterior_grams(k0, target, [500, 5, 500, 500]).grams,
    "few outputs": deep_linear.posterior_grams(k0, target, [500, 500, 500, 5]).grams,
}


def aligned(k):
    return float(
        centred_alignment(jnp.linalg.cholesky(jnp.asarray(k)), jnp.asarray(labels[:, None]))
    )


figure, axes = plt.subplots(figsize=(6, 3.2))
for name, grams in chains.items():
    axes.plot(range(5), [aligned(k) for k in (k0, *grams, target)], "o-", label=name)
axes.axhline(aligned(k0), color="k", ls="--", label="infinite network")
axes.set(
    xlabel="layer (0: inputs, 4: targets)", ylabel="alignment with the labels", xticks=range(5)
)
axes.legend()
plt.show()

# %%
figure, row = plt.subplots(1, 5, figsize=(9, 2))
grams = {"inputs": k0, "1": chains["equal widths"][0], "2": chains["equal widths"][1]}
grams |= {"3": chains["equal widths"][2], "targets": target}
for axes, (title, k) in zip(row, grams.items(), strict=True):
    axes.imshow(k / np.trace(k), cmap="viridis")
    axes.set(title=title, xticks=[], yticks=[])

# %% [markdown]
# That is a limit. With one hidden layer the exact posterior for any width is a matrix generalised
# inverse Gaussian law, and its mean approaches the interpolation as width and outputs grow
# together. For a wide network with few outputs, the first-order shift says how little is left to
# learn.

# %%
for n in (8, 40, 200):  # as many outputs as units
    mean = np.asarray(matrix_gig.hidden_gram_posterior(k0, target, n, n).mean(n=1000, seed=0).mean)
    limit = deep_linear.geometric_interpolation(k0, target, 1).grams[0]
    error = np.linalg.norm(mean - limit) / np.linalg.norm(limit)
    print(f"width {n:3d}: posterior mean differs from the geometric mean by {error:.3f}")
y = labels[:, None]  # the noise has variance 1/4
for n in (30, 300, 3000):
    shifted = representation_shift.posterior_grams(k0, y @ y.T, [n], n_outputs=1, beta=4.0)[0]
    print(
        f"width {n:4d}, one output: the kernel moves by "
        f"{np.linalg.norm(shifted - k0) / np.linalg.norm(k0):.4f}"
    )

# %% [markdown]
# ## How wide? Ask the data
#
# Data from a linear network of width 2, and the evidence of three widths. One unit cannot make such
# data; sixteen could, and much else besides.

# %%
inputs = rng.normal(size=(20, 4))
hidden = inputs @ rng.normal(size=(4, 2)) / 2
outputs = hidden @ rng.normal(size=(2, 6)) / math.sqrt(2) + 0.3 * rng.normal(size=(20, 6))
network = dkp.DeepKernelProcess(
    layers=[kernels.Linear(), dkp.Wishart(width=2)], likelihood=likelihoods.Gaussian(noise=0.3)
)
data = dkp.Dataset.from_arrays(inputs, outputs, standardize=False)
comparison = dkp.compare_widths(
    network, data, widths=[1, 2, 16], key=jax.random.key(1), particles=64, runs=2, progress=False
)
print(comparison)
plots.widths(plt.subplots(figsize=(6, 3.2))[1], comparison)
plt.show()

# %% [markdown]
# ## Training: a bottleneck bends the kernel
#
# $F = f \circ g$ with $d$ units between two infinitely wide parts. In function space its training
# is exact: the tangent kernel of $F$ changes through $g$ and through the gradient of $f$. With the
# bottleneck frozen it is the usual kernel regression. Large targets are learned faster through a
# narrow bottleneck; small ones are not.

# %%
points, units = rng.normal(size=(12, 4)), 2
values = np.sign(points[:, 0] * points[:, 1])
start = points @ rng.normal(size=(4, units)) / 2
gram = jnp.asarray(points @ points.T / 4)
options = {"step": 0.03, "steps": 400}
moving = bottleneck_dynamics.train(
    kernels.Erf(), gram, jnp.asarray(start), jnp.asarray(values), **options
)
frozen = bottleneck_dynamics.train(
    kernels.Erf(), 0 * gram, jnp.asarray(start), jnp.asarray(values), **options
)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.semilogy(moving.loss, label="bottleneck of two units")
left.semilogy(frozen.loss, label="the same, frozen")
left.set(xlabel="step", ylabel="loss")
left.legend()
for step, marker in ((0, "x"), (400, "o")):
    right.scatter(*np.asarray(moving.bottleneck[step]).T, c=values, marker=marker, cmap="coolwarm")
right.set(title="the bottleneck, before (x) and after (o)", xlabel="unit 1", ylabel="unit 2")
plt.show()

# %%
figure, axes = plt.subplots(figsize=(6, 3.2))
sizes = (1, 2, 5, 20, 100)
for norm in (1.0, 3.0):
    times = [bottleneck_dynamics.acceleration(d, norm, repeats=5) for d in sizes]
    axes.semilogx(sizes, times, "o-", label=f"targets of norm {norm:g}")
axes.axhline(1, color="k", ls="--", label="no bottleneck")
axes.set(xlabel="units of the bottleneck", ylabel="time to 1% of the loss")
axes.legend()
plt.show()

# %% [markdown]
# ## What follows
#
# - In an infinite network the kernel is fixed; finite widths make it random, and the posterior can
#   move it.
# - The narrowest layers move most, and the data can say how narrow.
# - Between infinite layers one bottleneck is enough, and then the model is a deep kernel process:
#   what `dkp.fit_vi`, `dkp.sample_hmc` and `dkp.compare_widths` fit. Notebook 03 does that with
#   nonlinear kernels.
