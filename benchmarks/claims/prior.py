"""Claims on the prior over kernels of deep linear networks."""

from collections.abc import Sequence

import numpy as np

from benchmarks.claims.finding import Finding
from dkp.theory import deep_linear

__all__ = ["kernel_variance"]

POINTS, LOCATIONS, FEATURES, FILTER, DRAWS = 2, 6, 5, 3, 40_000


def dense_draws(
    features: np.ndarray, widths: Sequence[int], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Gram matrices (n, P, P) after the last layer of networks with real weights; `features` (P, D)
    have the Gram matrix features features^T.
    """
    f, norm = np.broadcast_to(features, (n, *features.shape)), 1
    for width in widths:
        f = f @ rng.normal(size=(n, f.shape[-1], width)) / np.sqrt(norm)
        norm = width
    return f @ f.swapaxes(1, 2) / norm


def local_draws(
    features: np.ndarray, widths: Sequence[int], n: int, rng: np.random.Generator, *, shared: bool
) -> np.ndarray:
    """The same, averaged over locations, of networks with filters on a circle, which are shared
    between locations (convolutions) or not; `features` is (P, S, D).
    """
    p, s, _ = features.shape
    f, norm = np.broadcast_to(features, (n, *features.shape)), 1
    offsets = np.arange(FILTER) - (FILTER - 1) // 2
    for width in widths:
        patches = np.stack([np.roll(f, -d, axis=2) for d in offsets], axis=3).reshape(n, p, s, -1)
        shape = (n, 1 if shared else s, patches.shape[-1], width)
        weights = np.broadcast_to(rng.normal(size=shape), (n, s, *shape[2:]))
        f = np.einsum("npsc,nscw->npsw", patches, weights) / np.sqrt(FILTER * norm)
        norm = width
    return np.einsum("npsw,nqsw->npq", f, f) / (norm * s)


def variance(draws: np.ndarray) -> tuple[float, float]:
    """Of the first entry, with its standard error."""
    squares = (draws[:, 0, 0] - draws[:, 0, 0].mean()) ** 2
    return float(squares.mean()), float(squares.std() / np.sqrt(len(squares)))


def exact_variance(k0: np.ndarray, widths: Sequence[int], kind: str) -> float:
    """The closed form, for the kernel that is averaged over locations."""
    if kind == "dense":
        average = np.einsum("irjr->ij", k0) / LOCATIONS
        return float(deep_linear.gram_moments(average, widths)[1][0, 0, 0, 0])
    covariance = deep_linear.conv_gram_moments(k0, widths, FILTER, shared=kind == "convolutional")[
        1
    ]
    return float(np.einsum("rrss->", covariance[0, :, 0, :, 0, :, 0, :]) / LOCATIONS**2)


def kernel_variance() -> Finding:
    """How much top-layer kernels vary under the prior: width, depth and architecture."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(POINTS, LOCATIONS, FEATURES)) / np.sqrt(FEATURES)
    k0 = np.einsum("irc,jsc->irjs", features, features)
    average = np.linalg.cholesky(np.einsum("irjr->ij", k0) / LOCATIONS)
    rows, scores = {}, []
    for kind in ("dense", "convolutional", "local"):
        for widths in ((4,), (16,), (4, 4), (16, 16), (16, 16, 16, 16)):
            if kind == "dense":
                draws = dense_draws(average, widths, DRAWS, rng)
            elif len(widths) > 2:
                continue
            else:
                draws = local_draws(
                    features, widths, DRAWS // 2, rng, shared=kind == "convolutional"
                )
            found, error = variance(draws)
            exact = exact_variance(k0, widths, kind)
            rows[f"{kind} {widths}"] = {"monte_carlo": found, "error": error, "exact": exact}
            scores.append(abs(found - exact) / error)
    at = {name: row["exact"] for name, row in rows.items()}
    ordered = (
        at["dense (16,)"] < at["dense (4,)"] < at["dense (4, 4)"]
        and at["dense (16,)"] < at["dense (16, 16)"] < at["dense (16, 16, 16, 16)"]
        and all(
            at[f"dense {w}"] > at[f"convolutional {w}"] > at[f"local {w}"]
            for w in ((4,), (16,), (4, 4))
        )
    )
    worst = max(scores)
    shown = ", ".join(
        f"{kind} {at[f'{kind} (4, 4)']:.3f}" for kind in ("dense", "convolutional", "local")
    )
    return Finding(
        claim="Kernels vary more in narrow and deep networks; those of convolutional networks "
        "more than those of locally connected ones",
        paper="Aitchison 2020, section 3",
        computed="Variance of a top-layer kernel entry, closed form against real weight products "
        f"of {len(rows)} networks",
        number=f"two layers of 4: {shown}; dense, 16 units, 1, 2, 4 layers: "
        + ", ".join(f"{at[f'dense {w}']:.3f}" for w in ((16,), (16, 16), (16,) * 4))
        + f"; largest |z| of {len(scores)}: {worst:.1f}",
        reproduced=bool(ordered and worst < 4.5),
        values={"rows": rows, "worst_z": worst},
    )
