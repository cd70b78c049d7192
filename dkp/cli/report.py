"""``dkp report``: one HTML page, with nothing outside it, of a model that ``dkp fit`` saved."""

import base64
import html
import io
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from dkp import plots
from dkp._version import __version__
from dkp.cli.encoding import Feature
from dkp.cli.experiment import DEEP, DRAWS
from dkp.cli.model_file import TableModel
from dkp.cli.tasks import Classification
from dkp.diagnostics.grams import gram_draws, label_alignment
from dkp.posterior.predict import predict

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; \
color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } img { max-width: 100%; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; } code { background: #f4f4f4; padding: 0 .2rem; }
.warning { background: #fff3cd; padding: .4rem .8rem; margin: .4rem 0; }
"""
_DRAWS_OF_GRAMS = 20
_SMALL = 1e-4  # a jitter, relative to a diagonal, that changes nothing that matters


def page(model: TableModel, *, seed: int = 0) -> str:
    """The page.

    Args:
        seed: of the draws behind predictions and matrices.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    posterior: Any = model.posterior
    prediction = predict(posterior, model.x_test, key=keys[0], n_samples=DRAWS)
    sections = {
        "Warnings": _warnings(model, prediction),
        "Data": _data(model),
        "Model": _model(model),
        "Fit": _image(
            lambda figure: plots.elbo_trace(figure.subplots(), posterior.elbo_trace, skip=0.1)
        ),
        "Held-out rows": _scores(model) + _held_out(model, prediction),
        "Learned representations": _representations(model, keys[1], keys[2]),
    }
    body = "".join(f"<h2>{name}</h2>\n{text}\n" for name, text in sections.items())
    title = f"{_text(model.target)}: {_text(DEEP)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}<p>dkp "
        f"{__version__}</p></body></html>\n"
    )


# --- what to look at first ------------------------------------------------------------------------


def _warnings(model: TableModel, prediction: Any) -> str:
    found = [*_fit_warnings(model.posterior), *_calibration_warnings(model, prediction)]
    return "".join(f'<p class="warning">{_text(text)}</p>' for text in found) or "<p>None.</p>"


def _fit_warnings(posterior: Any) -> list[str]:
    found, summary, trace = [], posterior.summary(), np.asarray(posterior.elbo_trace)
    if summary["stopped"] == "interrupted":
        found.append(
            "The fit was interrupted: this is its best state until then. Run dkp fit again for "
            "more steps."
        )
    if summary["skipped"]:
        found.append(
            f"{summary['skipped']} of {len(trace)} steps were not finite, and were skipped: try "
            "float64."
        )
    if summary["jitter"] > _SMALL:
        found.append(
            f"Up to {summary['jitter']:.2g} was added to diagonals of matrices to factorise them."
        )
    if (rise := _last_rise(trace)) > 0:
        found.append(
            f"The ELBO still rose by {rise:.3f} nats a row over the last fifth: more --steps may "
            "help."
        )
    return found


def _last_rise(trace: np.ndarray) -> float:
    """How much the mean of the last tenth lies above the tenth before it.

    It is 0 where that is no more than noise, or does not matter.
    """
    tenth = len(trace) // 10
    if tenth < 10:
        return 0.0
    before, last = trace[-2 * tenth : -tenth], trace[-tenth:]
    rise, error = last.mean() - before.mean(), np.sqrt((before.var() + last.var()) / tenth)
    return float(rise) if np.isfinite(rise) and rise > max(3 * error, 0.01) else 0.0


def _calibration_warnings(model: TableModel, prediction: Any) -> list[str]:
    found, n = [], len(model.y_test)
    if n < 30:
        found.append(f"Only {n} rows were held out: all scores are rough.")
    if not isinstance(model.task, Classification):
        lower, upper = prediction.quantile([0.05, 0.95])
        inside = int(np.sum((lower <= model.y_test) & (model.y_test <= upper)))
        if stats.binomtest(inside, n, 0.9).pvalue < 0.01:
            found.append(
                f"90% intervals hold {inside / n:.0%} of {n} held-out targets, more than chance "
                "away from 90%."
            )
    best = max(
        model.scores, key=lambda name: float(model.scores[name]["test log density"].split()[0])
    )
    if best != DEEP:
        found.append(f"On the held-out rows the simpler model “{best}” has the higher log density.")
    return found


# --- what it is made of ---------------------------------------------------------------------------


def _data(model: TableModel) -> str:
    data = model.posterior.data
    rows = [
        ("table", model.source),
        ("target", f"{model.target} ({type(model.task).__name__.lower()})"),
        ("rows", f"{data.n} to train, {len(model.y_test)} held out"),
        ("features", f"{data.d} from {len(model.encoding.features)} columns"),
    ]
    if model.task.classes:
        rows.append(("classes", ", ".join(model.task.classes)))
    columns = [("column", "what", "missing cells become")]
    columns += [_column(feature) for feature in model.encoding.features]
    return _table(rows) + _table(columns, header=True)


def _column(feature: Feature) -> tuple[str, str, str]:
    extra = " and an indicator" if feature.indicator else ""
    if feature.categories is None:
        return feature.name, "numbers", f"{feature.fill:.6g}{extra}"
    shown = ", ".join(feature.categories)
    if feature.ordered:
        return feature.name, f"ordered: {shown}", f"{feature.fill:.6g}{extra}"
    return feature.name, f"one feature each: {shown}", "a category, where training rows had one"


def _model(model: TableModel) -> str:
    posterior: Any = model.posterior
    layers = [(str(i), repr(layer)) for i, layer in enumerate(posterior.model.layers)]
    layers.append(("likelihood", repr(posterior.model.likelihood)))
    values = [("hyperparameter", "value"), *_hyperparameters(posterior)]
    summary = [(name, _shown(value)) for name, value in posterior.summary().items()]
    return _table(layers) + _table(values, header=True) + _table(summary)


def _hyperparameters(posterior: Any) -> list[tuple[str, str]]:
    names = posterior.data.feature_names
    found = []
    for name, value in posterior.hyperparameters.items():
        if np.ndim(value) == 1 and len(value) == len(names):
            found += [
                (f"{name}, {feature}", f"{v:.4g}") for feature, v in zip(names, value, strict=True)
            ]
        else:
            found.append((name, _shown(value)))
    return found


# --- what it predicts -----------------------------------------------------------------------------


def _scores(model: TableModel) -> str:
    names = list(next(iter(model.scores.values())))
    rows = [("", *names), *((name, *(row[n] for n in names)) for name, row in model.scores.items())]
    return _table(rows, header=True)


def _held_out(model: TableModel, prediction: Any) -> str:
    if isinstance(model.task, Classification):
        return _image(lambda figure: _classes(figure, model, prediction.probabilities))
    return _image(lambda figure: _numbers(figure, model, prediction))


def _numbers(figure: Figure, model: TableModel, prediction: Any) -> None:
    axes = figure.subplots(1, 3)
    plots.observed_against_predicted(axes[0], prediction, model.y_test)
    plots.calibration(axes[1], prediction, model.y_test)
    scaled = (model.y_test - prediction.mean) / np.sqrt(prediction.variance)
    axes[2].axhline(0, color="black", linewidth=0.8)
    axes[2].plot(prediction.mean, scaled, "o", markersize=3, alpha=0.6)
    axes[2].set(xlabel="predicted", ylabel="residual / predictive sd")


def _classes(figure: Figure, model: TableModel, probabilities: np.ndarray) -> None:
    axes = figure.subplots(1, 2)
    labels = model.y_test.astype(int)
    plots.reliability(axes[0], labels, probabilities)
    n = len(model.task.classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (labels, np.argmax(probabilities, axis=1)), 1)
    axes[1].imshow(counts, cmap="Blues")
    for (i, j), count in np.ndenumerate(counts):
        axes[1].text(
            j,
            i,
            str(count),
            ha="center",
            va="center",
            color="white" if 2 * count > counts.max() else "black",
        )
    ticks = {"ticks": range(n), "labels": model.task.classes}
    axes[1].set_xticks(**ticks, rotation=90)
    axes[1].set_yticks(**ticks)
    axes[1].set(xlabel="predicted", ylabel="observed")


# --- what it learned ------------------------------------------------------------------------------


def _representations(model: TableModel, key: jax.Array, key_points: jax.Array) -> str:
    draws = model.posterior.sample(key, _DRAWS_OF_GRAMS)
    grams = gram_draws(model.posterior, draws)
    last = np.asarray(grams.learned[-1]).mean(axis=0)
    # inducing points that the last kernel takes for alike together
    order = np.argsort(np.linalg.eigh(last)[1][:, -1])

    def draw(figure: Figure) -> None:
        plots.gram_matrices(
            figure.subplots(2, len(grams.learned), squeeze=False), grams, order=order
        )

    alignment = np.asarray(label_alignment(model.posterior, draws, key=key_points))
    names = [*(f"G{i + 1}" for i in range(alignment.shape[1] - 1)), "K of the outputs"]
    rows = [("matrix", "alignment with the targets")]
    rows += [
        (n, f"{m:.3f} ± {s:.3f}")
        for n, m, s in zip(names, alignment.mean(0), alignment.std(0), strict=True)
    ]
    text = (
        "<p>Kernel matrices of the inducing points: learned, and without learned "
        "representations.</p>"
    )
    return text + _image(draw, height=6.0) + _table(rows, header=True)


# --- HTML -----------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return html.escape(str(value))


def _shown(value: Any) -> str:
    if isinstance(value, (float, np.ndarray)):
        return np.array2string(np.asarray(value), precision=4, threshold=12)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(rows: Any, *, header: bool = False) -> str:
    lines = []
    for i, row in enumerate(rows):
        tag = "th" if header and i == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _image(draw: Any, height: float = 4.0) -> str:
    figure = Figure(figsize=(12, height), layout="constrained")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return (
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )
