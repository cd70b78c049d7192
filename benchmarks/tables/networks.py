"""Infinitely wide networks on images.

Accuracy and log density of their exact predictors, NNGP and NTK.

A method is an architecture, with or without whitening. Every record holds both kernels. Nothing is
tuned on test images: regularisation, temperature and the strength of whitening come from
leave-one-out prediction of training images.
"""

import time
from typing import Any

import numpy as np

import dkp
from benchmarks.config import Run
from benchmarks.tables import datasets
from dkp import kernels, likelihoods, preprocessing

__all__ = ["ARCHITECTURES", "evaluate", "model_of", "score"]

DIAG_REGS = np.logspace(-6, 0, 13)
WHITENINGS = (0.01, 0.1, 1.0, 10.0)
TUNING_POINTS = {"fcn": 1000, "vec": 500, "gap": 100}
CHUNK = 500


def _dense() -> list[Any]:
    return [kernels.Affine(2.0, 0.01), kernels.ReLU()]


def _convolution() -> list[Any]:
    return [kernels.Conv(3, weight_var=2.0, bias_var=0.01), kernels.ReLU()]


ARCHITECTURES = {
    "fcn": lambda: [kernels.Flatten(), *_dense(), *_dense(), *_dense(), kernels.Affine()],
    "vec": lambda: [
        *_convolution(),
        *_convolution(),
        *_convolution(),
        kernels.Flatten(),
        kernels.Affine(),
    ],
    "gap": lambda: [
        *_convolution(),
        *_convolution(),
        *_convolution(),
        kernels.GlobalAvgPool(),
        kernels.Affine(),
    ],
}
"""Three hidden layers of ReLU with weight variance 2 and bias variance 0.01, as in Lee et al. 2020,
but less deep."""


def model_of(method: str) -> "dkp.DeepKernelProcess":
    """The network of a method; the noise is small beside any regularisation that is tried."""
    layers = ARCHITECTURES[method.removesuffix("-zca")]()
    return dkp.DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian(noise=1e-4))


def evaluate(run: Run) -> dict[str, Any]:
    """Fit and score both kernels of one method on one set of images."""
    images = datasets.load_images(run.dataset, run.split)
    x, x_test, model = images.x, images.x_test, model_of(run.method)
    metrics, fit, times = {}, {}, {"whitening": -time.perf_counter()}
    if run.method.endswith("-zca"):
        fit["zca_eps"] = best_whitening(
            model, x, images.y, TUNING_POINTS[run.method.removesuffix("-zca")]
        )
        whitening = preprocessing.zca(x, fit["zca_eps"])
        x, x_test = whitening.apply(x), whitening.apply(x_test)
    times["whitening"] += time.perf_counter()
    data = dkp.Dataset.from_labels(x, images.y)
    for name, make in (("nngp", dkp.condition), ("ntk", dkp.gradient_flow)):
        start = time.perf_counter()
        classifier = _calibrated(make, model, data)
        fitted = time.perf_counter()
        scores = score(
            classifier.probabilities(x_test, chunk=CHUNK), images.y_test, classifier.classes
        )
        times |= {f"fit_{name}": fitted - start, f"predict_{name}": time.perf_counter() - fitted}
        metrics |= {f"{key}_{name}": value for key, value in scores.items()}
        if run.method == "fcn":  # cheap enough to be done again
            plain = dkp.calibrate(make(model, data))
            scores = score(plain.probabilities(x_test, chunk=CHUNK), images.y_test, plain.classes)
            metrics |= {f"{key}_{name}_unregularised": value for key, value in scores.items()}
        summary = classifier.posterior.summary()
        fit |= {
            f"diag_reg_{name}": classifier.diag_reg,
            f"temperature_{name}": classifier.temperature,
            f"leave_one_out_accuracy_{name}": classifier.accuracy,
            f"smallest_eigenvalue_{name}": summary["smallest_eigenvalue"],
            f"eigenvalue_noise_{name}": summary["eigenvalue_noise"],
        }
    times["total"] = sum(times.values())
    return {
        "metrics": metrics,
        "fit": fit,
        "n_train": len(x),
        "n_test": len(x_test),
        "model": repr(model),
        "source": images.source,
        "times": times,
    }


def best_whitening(
    model: "dkp.DeepKernelProcess", x: np.ndarray, labels: np.ndarray, n: int
) -> float:
    """The eps of ``WHITENINGS`` with the highest leave-one-out log density of the NNGP among the
    first n points; the whitening itself is fitted to all.
    """

    def log_density(eps: float) -> float:
        part = dkp.Dataset.from_labels(preprocessing.zca(x, eps).apply(x[:n]), labels[:n])
        return _calibrated(dkp.condition, model, part).log_density

    return max(WHITENINGS, key=log_density)


def _calibrated(
    make: Any, model: "dkp.DeepKernelProcess", data: "dkp.Dataset"
) -> "dkp.CalibratedClassifier":
    return dkp.calibrate(
        make(model, data, diag_reg=float(DIAG_REGS[0])), diag_reg=DIAG_REGS.tolist()
    )


def score(
    probabilities: np.ndarray, labels: np.ndarray, classes: tuple[Any, ...]
) -> dict[str, float]:
    """Accuracy and mean log density of the true labels, with its standard error."""
    index = np.searchsorted(np.asarray(classes), labels)
    chosen = np.log(np.maximum(probabilities[np.arange(len(index)), index], np.finfo(float).tiny))
    return {
        "accuracy": float(np.mean(np.argmax(probabilities, axis=1) == index)),
        "log_density": float(chosen.mean()),
        "log_density_se": float(chosen.std(ddof=1) / np.sqrt(len(chosen))),
    }
