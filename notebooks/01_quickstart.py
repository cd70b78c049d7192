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
# # From a table of numbers to a deep kernel process
#
# A Gaussian process has one kernel, and the data choose its length-scale. A deep kernel process
# computes its kernel in layers, as an infinitely wide network does, and lets the data choose the
# kernel matrix itself: between two layers stands a *bottleneck*, where the Gram matrix $G$ is
# random with the kernel matrix $K$ that enters it as its mean,
#
# $$G \mid K \sim \mathcal{IW}\big(\delta K,\; \delta + P + 1\big), \qquad \mathbb{E}[G] = K,$$
#
# on $P$ points. As $\delta \to \infty$ the bottleneck passes $K$ on unchanged and the model is a
# Gaussian process with a fixed kernel; a small $\delta$ leaves room to learn a representation.
#
# This notebook needs no network and takes about a minute on two cores.

# %%
import warnings

import jax

jax.config.update("jax_enable_x64", True)  # double precision, before any array exists
for message in (
    r"\s*ArviZ is undergoing a major refactor",
    "IProgress not found",
    "Estimated shape parameter",
):
    warnings.filterwarnings("ignore", message=message)

import arviz as az
import matplotlib.pyplot as plt
import numpy as np

import dkp
from dkp import kernels, likelihoods, plots
from dkp.diagnostics import grams, metrics

plt.rcParams["figure.dpi"] = 60
key_gp, key_deep, key_predict, key_draws, key_loo = jax.random.split(jax.random.key(0), 5)

# %% [markdown]
# ## Two models
#
# A model is a list of layers and a likelihood. Without a bottleneck it is a Gaussian process and is
# conditioned exactly; with one it is fitted variationally. `dkp.learn(…)` marks what is optimised;
# length-scales and the noise are by default.

# %%
gp_model = dkp.DeepKernelProcess(
    layers=[kernels.Linear(ard=True), kernels.SquaredExponential(variance=dkp.learn(1.0))],
    likelihood=likelihoods.Gaussian(),
)


def deep_model(delta):
    """One bottleneck between two squared-exponential kernels."""
    return dkp.DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True),
            kernels.SquaredExponential(),
            dkp.InverseWishart(delta=delta),
            kernels.SquaredExponential(variance=dkp.learn(1.0)),
        ],
        likelihood=likelihoods.Gaussian(),
    )


# %% [markdown]
# ## One dimension
#
# Forty points of a cubic, with a gap in the middle. `Dataset.from_arrays` checks and standardises;
# predictions come back in the original units. The concentration is held at $\delta = 5$ here, so
# that there is a representation to look at: learned, it grows on data as simple as these, back
# towards the Gaussian process.

# %%
table = dkp.datasets.cubic()
data = dkp.Dataset.from_arrays(table.x, table.y)
gp = dkp.condition(gp_model, data)
deep = dkp.fit_vi(
    deep_model(delta=5.0), data, key=key_deep, n_inducing=10, steps=1000, progress=False
)
{name: np.round(value, 3).tolist() for name, value in deep.hyperparameters.items()}

# %% [markdown]
# Look at how the fit went before trusting it: the evidence lower bound should have levelled off,
# and no step should have been skipped.

# %%
figure, ax = plt.subplots(figsize=(5, 2.5))
plots.elbo_trace(ax, deep.elbo_trace, skip=0.05)
deep.summary()

# %% [markdown]
# A prediction is a mixture with one component per posterior draw of the network: its quantiles give
# the bands.

# %%
grid = np.linspace(-6, 6, 121)[:, None]
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
for ax, posterior, title in zip(
    axes, (gp, deep), ("Gaussian process", "deep kernel process"), strict=True
):
    plots.band(ax, grid, dkp.predict(posterior, grid, key=key_predict), level=0.9)
    ax.plot(table.x, table.y, "k.", markersize=4)
    ax.set(title=title, xlabel="x", ylim=(-150, 150))

# %% [markdown]
# ## The kernel that was learned
#
# A draw of the posterior holds its Gram matrices at the inducing points. The second row shows what
# the same network, with the same hyperparameters, would compute if its bottleneck passed the kernel
# on unchanged: the fixed kernel of an infinitely wide network. What differs between the rows was
# learned from the targets.

# %%
draws = deep.sample(key_draws, 100)
learned_and_fixed = grams.gram_draws(deep, draws)
figure, axes = plt.subplots(2, 2, figsize=(6, 6), squeeze=False)
_ = plots.gram_matrices(axes, learned_and_fixed, order=np.argsort(draws.inducing[0, :, 0]))

# %% [markdown]
# The centred alignment of each matrix with the label kernel $y y^\top$ at the training points,
# averaged over draws, says whether the layers move towards the targets.

# %%
grams.label_alignment(deep, draws, key=key_draws).mean(axis=0).round(3)

# %% [markdown]
# ## A real table
#
# 442 patients, ten measurements, and the progression of their diabetes a year later; a tenth of the
# rows is held out.

# %%
table = dkp.datasets.load("diabetes", split=0)
data = dkp.Dataset.from_arrays(table.x, table.y, feature_names=table.feature_names)
gp = dkp.condition(gp_model, data)
deep = dkp.fit_vi(
    deep_model(delta=dkp.learn()), data, key=key_deep, n_inducing=30, steps=500, progress=False
)
predictions = {
    "Gaussian process": dkp.predict(gp, table.x_test, key=key_predict, n_samples=200),
    "deep kernel process": dkp.predict(deep, table.x_test, key=key_predict, n_samples=200),
}
for name, prediction in predictions.items():
    score = metrics.mean_log_density(prediction.log_density(table.y_test))
    error = metrics.rmse(table.y_test, prediction.mean)
    print(
        f"{name:20} RMSE {error:5.1f}   test log density {score.mean:.2f} ± "
        f"{score.standard_error:.2f}"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4))
plots.observed_against_predicted(axes[0], predictions["deep kernel process"], table.y_test)
for name, prediction in predictions.items():
    plots.calibration(axes[1], prediction, table.y_test, label=name)
_ = axes[1].legend()

# %% [markdown]
# ## Leave-one-out
#
# `dkp.to_arviz` hands the posterior to ArviZ. PSIS-LOO needs the log-likelihood of every
# observation under every draw, and estimates from the training data alone how well each model
# predicts a row that it has not seen. An observation with a Pareto $k$ above 0.7 has too much
# influence for the estimate to be trusted.
#
# The comparison is as good as the posteriors: the variational one approximates, and its learned
# hyperparameters are optimised on all rows, as those of the Gaussian process are.

# %%
evaluated = {
    "Gaussian process": dkp.to_arviz(gp, key=key_loo, n_samples=200),
    "deep kernel process": dkp.to_arviz(deep, key=key_loo, n_samples=200),
}
for name, idata in evaluated.items():
    print(f"{name:20} largest Pareto k {float(az.loo(idata, pointwise=True).pareto_k.max()):.2f}")
az.compare(evaluated).iloc[:, :3].round(1)

# %%
list(evaluated["deep kernel process"]["posterior"].data_vars)
