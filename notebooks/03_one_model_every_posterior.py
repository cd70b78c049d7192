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
# # One model, every posterior
#
# A variational fit is quick and approximate; a Markov chain is slow and exact in the long run; and
# a model without a bottleneck needs neither. All three start from one description of the model, and
# what they return predicts in the same way. So the approximate one can be audited by the exact one,
# and the question that has no place in either fit alone, *how wide should the bottleneck be?*, gets
# an answer with a probability.
#
# It takes about 90 seconds on two cores, most of them for compilation.

# %%
import math
import warnings

import jax

jax.config.update("jax_enable_x64", True)  # energies of Markov chains need double precision
for message in (r"\s*ArviZ is undergoing a major refactor", "IProgress not found", "ESS", "R-hat"):
    warnings.filterwarnings("ignore", message=message)

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

import dkp
from dkp import kernels, likelihoods, plots

plt.rcParams["figure.dpi"] = 60
keys = iter(jax.random.split(jax.random.key(0), 10))

# %% [markdown]
# ## The data and the model
#
# A function that is smooth on the left and jumps on the right: no single length-scale suits both.

# %%
rng = np.random.default_rng(1)
x = np.sort(rng.uniform(-2, 2, 24))


def truth(x):
    return np.where(x < 0.5, np.sin(2 * x), 1.5 - 0.5 * x)


y = truth(x) + 0.1 * rng.normal(size=len(x))
data = dkp.Dataset.from_arrays(x, y)
grid = np.linspace(-2.5, 2.5, 60)


def model(*bottleneck):
    """Two squared-exponential layers, with or without a bottleneck between them."""
    return dkp.DeepKernelProcess(
        layers=[
            kernels.SquaredExponential(lengthscale=0.5, variance=1.0),
            *bottleneck,
            kernels.SquaredExponential(lengthscale=1.0, variance=1.0),
        ],
        likelihood=likelihoods.Gaussian(noise=dist.LogNormal(math.log(0.15), 0.5)),
    )


deep = model(dkp.InverseWishart(delta=4.0))

# %% [markdown]
# ## Three posteriors
#
# The inverse Wishart bottleneck has a variational guide, so `dkp.fit_vi` and `dkp.sample_hmc` take
# the same description. The chains start from draws of the variational posterior. Without the
# bottleneck the model is a Gaussian process; its noise, which the other two infer, is a number
# there.

# %%
vi = dkp.fit_vi(
    deep, data, key=next(keys), n_inducing=24, steps=600, start_steps=100, progress=False
)
hmc = dkp.sample_hmc(
    deep, data, key=next(keys), init=vi, chains=2, warmup=300, draws=500, progress=False
)
gp = dkp.condition(
    dkp.DeepKernelProcess(layers=model().layers, likelihood=likelihoods.Gaussian(noise=0.15)), data
)
print(hmc)

# %% [markdown]
# Entries of a factor mean nothing by themselves, so convergence is judged by numbers that do not
# change when features are rotated: log-determinants, traces, the alignment with the labels, the
# likelihood, values of f.

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True)
for ax, (name, posterior) in zip(
    axes, {"variational": vi, "HMC": hmc, "no bottleneck": gp}.items(), strict=True
):
    plots.band(
        ax, grid, dkp.predict(posterior, grid[:, None], key=jax.random.key(7)), label="90% interval"
    )
    ax.plot(x, y, "k.", markersize=4)
    ax.plot(grid, truth(grid), "k--", linewidth=0.8)
    ax.set(title=name, xlabel="x")
plt.show()

# %% [markdown]
# ## Auditing the variational posterior
#
# `dkp.diagnostics.compare` puts draws of both side by side: predictions, and the Gram matrices at a
# few points. The guide can also be judged without the chains, by the weights that would turn its
# draws into exact ones: k-hat below 0.7 says that it covers the posterior.

# %%
audit = dkp.diagnostics.compare(
    vi, hmc, np.linspace(-2, 2, 5)[:, None], key=next(keys), n_samples=200
)
print(audit)

# %% [markdown]
# The same posterior in ArviZ, with every chain: leave-one-out predictive density, for comparison
# with other models.

# %%
idata = dkp.to_arviz(hmc, key=next(keys))
print(az.loo(idata))

# %% [markdown]
# ## How wide should the bottleneck be?
#
# A Wishart bottleneck of width $\nu$ is a linear layer of $\nu$ units; at infinite width it
# disappears. The evidence $p(y \mid x, \nu)$, by tempered sequential Monte Carlo, answers as
# Bayesians do: it weighs how well a width explains the data against how much else it could have
# explained. Here the truth is known: a linear network with four inputs, two hidden units and ten
# outputs (Aitchison 2020, arXiv 1910.08013, section 2).

# %%
inputs = rng.normal(size=(40, 4))
hidden = inputs @ rng.normal(size=(4, 2)) / 2
outputs = hidden @ rng.normal(size=(2, 10)) / math.sqrt(2) + 0.3 * rng.normal(size=(40, 10))
train, test = slice(0, 20), slice(20, 40)
linear = dkp.DeepKernelProcess(
    layers=[kernels.Linear(), dkp.Wishart(width=1)], likelihood=likelihoods.Gaussian(noise=0.3)
)
comparison = dkp.compare_widths(
    linear,
    dkp.Dataset.from_arrays(inputs[train], outputs[train], standardize=False),
    widths=[1, 2, 8, math.inf],
    key=next(keys),
    particles=256,
    runs=3,
    held_out=(inputs[test], outputs[test]),
    progress=False,
)
print(comparison)

# %% [markdown]
# One unit cannot carry the signal; two can; more of them are not wrong, only less probable, since
# they spread the prior over networks that the data do not need. Infinitely many cannot learn a
# representation at all, and predict worse.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
plots.widths(axes, comparison)
plt.show()
