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
# # Real tables: categories, holes, classes, counts, and a run that is killed
#
# `dkp.estimators` puts deep kernel processes behind scikit-learn's interface. This notebook takes a
# CSV file with text and holes to calibrated predictions in a pipeline, fits classes and counts, and
# kills a fit and resumes it.
#
# It needs no network and takes 80 seconds on two cores, most of them to compile.

# %%
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

# Fits of seconds: XLA need not work hard for fast programs. Where fits take minutes, leave this
# out.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import jax

jax.config.update("jax_enable_x64", True)  # double precision, before any array exists
for message in (r"\s*ArviZ is undergoing a major refactor", "IProgress not found"):
    warnings.filterwarnings("ignore", message=message)

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import dkp
from dkp import likelihoods, plots
from dkp.diagnostics import metrics
from dkp.estimators import DKPClassifier, DKPRegressor

plt.rcParams["figure.dpi"] = 60

# %% [markdown]
# ## A CSV file with categories and holes
#
# Made up, so that the truth is known: the price of a flat is a smooth function of its area, with a
# jump for its district and noise with a standard deviation of 8. One area in ten is missing.

# %%
rng = np.random.default_rng(0)
n = 250
area, district = rng.uniform(30, 150, n), rng.choice(["harbour", "old town", "hills"], n)
base = 300 / (1 + np.exp(-(area - 80) / 15))
price = (
    base
    + np.select([district == "harbour", district == "hills"], [40, -20], 0)
    + 8 * rng.normal(size=n)
)
text = pd.DataFrame(
    {"area": np.where(rng.random(n) < 0.1, np.nan, area), "district": district, "price": price}
).to_csv(index=False)
print(text[:120])

# %% [markdown]
# scikit-learn's transformers make numbers of the columns; the deep kernel process is the last step
# of a pipeline.

# %%
table = pd.read_csv(io.StringIO(text))
train, test = train_test_split(table, test_size=50, random_state=0)
columns = make_column_transformer(
    (SimpleImputer(strategy="median", add_indicator=True), ["area"]),
    (OneHotEncoder(handle_unknown="ignore"), ["district"]),
)
pipeline = make_pipeline(columns, DKPRegressor(n_inducing=30, steps=300, random_state=0))
pipeline.fit(train.drop(columns="price"), train["price"])
mean, sd = pipeline.predict(test.drop(columns="price"), return_std=True)
print(f"R² {pipeline.score(test.drop(columns='price'), test['price']):.3f}")
inside = np.abs(test["price"] - mean) < 1.645 * sd
print(f"90% intervals hold {inside.mean():.0%} of the prices")
known = test["area"].notna()
print(f"standard deviations: area known {sd[known].mean():.0f}, missing {sd[~known].mean():.0f}")

# %% [markdown]
# With one size of noise for all rows, predictions are as sure of themselves where the area is
# missing as where it is known. A second latent function makes the noise depend on the inputs, and
# the indicator is one of them:

# %%
wide = make_pipeline(
    columns,
    DKPRegressor(
        likelihood=likelihoods.Heteroskedastic(), n_inducing=30, steps=400, random_state=0
    ),
)
wide.fit(train.drop(columns="price"), train["price"])
_, sd = wide.predict(test.drop(columns="price"), return_std=True)
print(f"standard deviations: area known {sd[known].mean():.0f}, missing {sd[~known].mean():.0f}")
for name, one in (("one size", pipeline), ("two functions", wide)):
    x = one[0].transform(test.drop(columns="price"))
    print(
        f"{name:15} test log density {one[-1].log_density(x, test['price'].to_numpy()).mean():.3f}"
    )

# %% [markdown]
# Grid search, clones and cross-validation are scikit-learn's own.

# %%
pipeline.set_params(dkpregressor__steps=50, dkpregressor__n_inducing=10)
scores = cross_val_score(pipeline, train.drop(columns="price"), train["price"], cv=2)
print("R² of two folds, after few steps:", scores.round(2))

# %% [markdown]
# ## Classes

# %%
x, y = load_breast_cancer(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0)
deep = DKPClassifier(n_inducing=30, steps=300, random_state=0).fit(x_train, y_train)
logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(x_train, y_train)
for name, classifier in (("deep kernel", deep), ("logistic", logistic)):
    p = classifier.predict_proba(x_test)
    print(
        f"{name:12} accuracy {metrics.accuracy(y_test, p):.3f}, log density "
        f"{metrics.mean_log_probability(y_test, p).mean:.3f}, calibration error "
        f"{metrics.expected_calibration_error(y_test, p):.3f}"
    )
ax = plots.reliability(plt.subplots(figsize=(4, 4))[1], y_test, deep.predict_proba(x_test))

# %% [markdown]
# ## Counts
#
# More spread than a Poisson law has: the negative binomial law learns how much.

# %%
x = rng.uniform(-2, 2, (300, 2))
rate = np.exp(1 + np.sin(2 * x[:, 0]) + 0.5 * x[:, 0] * x[:, 1])
counts = rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, 300)).astype(float)
fit, held = slice(0, 200), slice(200, None)
for likelihood in (likelihoods.Poisson(), likelihoods.NegativeBinomial()):
    model = DKPRegressor(likelihood=likelihood, n_inducing=20, steps=300, random_state=0).fit(
        x[fit], counts[fit]
    )
    low, _, high = model.predict_quantiles(x[held])
    coverage = metrics.interval_coverage(counts[held], low, high)
    print(
        f"{type(likelihood).__name__:17} log density "
        f"{model.log_density(x[held], counts[held]).mean():.3f}, 90% intervals hold {coverage:.0%}"
    )
glm = PoissonRegressor().fit(x[fit], counts[fit])
print(
    f"mean absolute error: {metrics.mae(counts[held], model.predict(x[held])):.2f}, of a Poisson "
    "regression",
    f"{metrics.mae(counts[held], glm.predict(x[held])):.2f}",
)

# %% [markdown]
# ## Save, kill, resume
#
# A posterior is one file, without pickle.

# %%
folder = Path(tempfile.mkdtemp())
dkp.save(model.posterior_, folder / "counts.dkp")
again = dkp.load(folder / "counts.dkp")
key = jax.random.key(0)
same = np.array_equal(
    dkp.predict(again, x[held], key=key).mean, dkp.predict(model.posterior_, x[held], key=key).mean
)
print(f"{(folder / 'counts.dkp').stat().st_size / 1e3:.0f} kB, the same predictions: {same}")

# %% [markdown]
# A fit in another process is killed in the middle, and the same call made again. It goes on from
# its checkpoint, and ends with the numbers of a fit that nobody disturbed.

# %%
script = folder / "fit.py"
script.write_text("""
import sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from dkp.estimators import DKPRegressor
x = np.random.default_rng(0).normal(size=(200, 2))
model = DKPRegressor(n_inducing=20, steps=1500, random_state=0, checkpoint=sys.argv[1], every=0.2)
model.fit(x, np.sin(2 * x[:, 0]))
print(model.posterior_.elbo_trace[-1].hex())
""")
# JAX keeps compiled programs in this folder, so that a process that goes on need not compile again.
cache = {
    "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def start(checkpoint):
    command = [sys.executable, str(script), str(folder / checkpoint)]
    return subprocess.Popen(
        command, env=os.environ | cache, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


undisturbed, killed = start("other.checkpoint"), start("fit.checkpoint")
while not (folder / "fit.checkpoint").exists():
    time.sleep(0.1)
time.sleep(1)
killed.kill()
print("killed:", killed.wait() == -signal.SIGKILL)
resumed = start("fit.checkpoint")
print("the same to the last bit:", resumed.communicate()[0] == undisturbed.communicate()[0] != b"")
