"""The prior of one output of a finite network at one input: exact, for any widths and depths.

With unit variance, h | s ~ N(0, s) with s = prod_l s_l: in a linear network s_l = chi^2_n / n of
n = n_l units, in a network of rectifiers s_l = 2 chi^2_k / n, where k of the n units are on,
k ~ Binomial(n, 1/2). So the Mellin transform of |h| is a product over layers,

    E |h|^t = E |z|^t prod_l E s_l^(t/2),
    E (chi^2_k)^(t/2) = 2^(t/2) Gamma((k + t) / 2) / Gamma(k / 2),

and density and distribution function are its inverse transforms, integrals along a vertical line of
the complex plane. The line goes through the saddle point, so that numbers are right to many digits
far in the tails as well.

Source: Zavatone-Veth & Pehlevan 2021 (arXiv 2104.11734), where the density is written with Meijer's
G function; the product for rectifiers and the integral are derived here.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from dkp._core import checks
from dkp._core.types import Array, Float, PRNGKeyArray

__all__ = ["OutputPrior", "edgeworth_density"]

ACTIVATIONS = ("linear", "relu")
_DECAY = 45.0  # nats by which the integrand has fallen where it is cut
_NODES = 4000
_LOWEST = 0.5  # distance of the line from the pole at 0,
_GROWTH = 3.0  # or less, so that x^-c is at most exp(3) there


@dataclasses.dataclass(frozen=True)
class OutputPrior:
    """The law of one output h of a network with Gaussian weights.

    Args:
        widths: n_1, …, n_L of the hidden layers; none for a Gaussian output.
        activation: "linear", or "relu" with weight variances of 2 / n (He), which keep E h^2.
        scale: standard deviation of h.

    Raises:
        ValueError: for widths that are not positive integers, an unknown activation, or a scale
            that is not positive.

    Examples:
        >>> from dkp.theory.marginal_priors import OutputPrior
        >>> prior = OutputPrior((4, 4), "relu")
        >>> print(round(float(prior.atom), 4), round(float(prior.excess_kurtosis), 4))
        0.1211 12.1875
    """

    widths: Sequence[int]
    activation: str = "linear"
    scale: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of("activation", self.activation, ACTIVATIONS)
        checks.positive_number("scale", self.scale)
        object.__setattr__(
            self, "widths", tuple(checks.positive_int("widths", n) for n in self.widths)
        )

    @functools.cached_property
    def atom(self) -> float:
        """P(h = 0) = 1 - prod_l (1 - 2^-n_l), that all units of some layer are off.

        It is 0 in a linear network.
        """
        if self.activation == "linear":
            return 0.0
        return float(-np.expm1(sum(np.log1p(-(2.0**-n)) for n in self.widths)))

    def moment(self, order: int) -> float:
        """E h^order. In a linear network E h^4 / 3 = prod_l (1 + 2 / n_l), at unit scale."""
        if order < 0 or order != int(order):
            raise ValueError(f"Expected order to be an integer of at least 0. Got {order}.")
        if order == 0:
            return 1.0
        return 0.0 if order % 2 else float(np.exp(np.real(self._log_mellin(float(order)))))

    @property
    def excess_kurtosis(self) -> float:
        """E h^4 / (E h^2)^2 - 3."""
        return self.moment(4) / self.moment(2) ** 2 - 3

    def density(self, h: Any) -> Float[np.ndarray, "..."]:
        """Density of the continuous part, which integrates to 1 - `atom`.

        Infinite at 0 where a width of 1 makes it so.
        """
        return self._apply(h, self._density_at)

    def cdf(self, h: Any) -> Float[np.ndarray, "..."]:
        """P(H <= h), the atom included."""
        return self._apply(h, self._tail_at, signed=True)

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draws."""
        keys = jax.random.split(key, 2 * len(self.widths) + 1)
        log_scale = jnp.zeros(shape)
        for i, n in enumerate(self.widths):
            on = jnp.full(shape, float(n))
            if self.activation == "relu":
                on = jax.random.binomial(keys[2 * i], n, 0.5, shape).astype(log_scale.dtype)
            chi2 = 2 * jax.random.gamma(keys[2 * i + 1], jnp.maximum(on, 0.5) / 2, shape)
            factor = jnp.where(on > 0, chi2, 0.0) * (2.0 if self.activation == "relu" else 1.0) / n
            log_scale = log_scale + jnp.log(factor)
        return self.scale * jnp.exp(log_scale / 2) * jax.random.normal(keys[-1], shape)

    # --- the Mellin transform ---------------------------------------------------------------------

    def _log_mellin(self, t: Any) -> Any:
        """log E |h|^t for complex t with a real part above -1, of the continuous part."""
        t = np.asarray(t, complex)
        total = (
            t * np.log(self.scale)
            + t / 2 * np.log(2)
            + special.loggamma((1 + t) / 2)
            - special.loggamma(0.5)
        )
        for n in self.widths:
            total = total + (_log_linear if self.activation == "linear" else _log_relu)(t, n)
        return total

    def _density_at(self, x: float) -> float:
        """p(x) = (1 / 2) (1 / 2 pi) int x^-(c + i tau) E |h|^(c - 1 + i tau) d tau for x > 0."""
        if x == 0:
            return self._density_at_zero()
        return _inverse(lambda s: self._log_mellin(s - 1), np.log(x)) / 2

    def _density_at_zero(self) -> float:
        """E s^(-1/2) / sqrt(2 pi), where it exists."""
        smallest = min(self.widths, default=2) if self.activation == "linear" else 1
        if self.widths and smallest == 1:
            return np.inf
        t = np.asarray(-1 + 0j)
        rest = sum((_log_linear(t, n) for n in self.widths), np.asarray(0j))
        return float(np.exp(np.real(rest)) / (np.sqrt(2 * np.pi) * self.scale))

    def _tail_at(self, x: float) -> float:
        """P(|h| > x) for x > 0.

        It is (1 / 2 pi) int x^-(c + i tau) E |h|^(c + i tau) / (c + i tau) d tau.
        """
        if x == 0:
            return 1 - self.atom
        return _inverse(lambda s: self._log_mellin(s) - np.log(s), np.log(x))

    def _apply(self, h: Any, at: Any, *, signed: bool = False) -> np.ndarray:
        values = np.asarray(h, float)
        if np.isnan(values).any():
            raise ValueError("Expected numbers. Got NaN.")
        distances, index = np.unique(np.abs(values), return_inverse=True)
        found = np.asarray([0.0 if np.isinf(x) else at(x) for x in distances])[
            index.ravel()
        ].reshape(values.shape)
        if not signed:
            return found
        return np.asarray(np.where(values >= 0, 1 - found / 2, found / 2))


def edgeworth_density(h: Any, widths: Sequence[int]) -> Float[np.ndarray, "..."]:
    """The density of a linear network of unit variance to first order in 1 / n:

        N(h; 0, 1) [1 + (1/4) (sum_l 1/n_l) (h^4 - 6 h^2 + 3)]

    Source: Zavatone-Veth & Pehlevan 2021 (arXiv 2104.11734).

    Examples:
        >>> from dkp.theory.marginal_priors import edgeworth_density
        >>> print(edgeworth_density([0.0, 1.0], (100,)).round(4))
        [0.4019 0.2408]
    """
    h, total = np.asarray(h, float), sum(1 / checks.positive_int("widths", n) for n in widths)
    return np.asarray(
        np.exp(-(h**2) / 2) / np.sqrt(2 * np.pi) * (1 + total / 4 * (h**4 - 6 * h**2 + 3))
    )


def _log_linear(t: Any, n: int) -> Any:
    """log E (chi^2_n / n)^(t/2)."""
    return t / 2 * np.log(2 / n) + special.loggamma((n + t) / 2) - special.loggamma(n / 2)


def _log_relu(t: Any, n: int) -> Any:
    """log E (2 chi^2_k / n)^(t/2) 1[k > 0], k ~ Binomial(n, 1/2)."""
    k = np.arange(1, n + 1).reshape((n,) + (1,) * np.ndim(t))
    weights = (
        special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1) - n * np.log(2)
    )
    terms = weights + special.loggamma((k + t) / 2) - special.loggamma(k / 2)
    largest = terms.real.max(axis=0)
    return t / 2 * np.log(4 / n) + largest + np.log(np.exp(terms - largest).sum(axis=0))


def _inverse(log_transform: Any, log_x: float) -> float:
    """(1 / 2 pi) int exp(log_transform(c + i tau) - (c + i tau) log x) d tau.

    By the trapezoidal rule along the line through the saddle point.
    """

    from scipy import optimize  # slow to import

    def height(c: float) -> float:
        return float(log_transform(np.asarray(c + 0j)).real - c * log_x)

    top = 1.0
    while height(2 * top) < height(top):
        top *= 2
    lowest: Any = optimize.minimize_scalar(height, bounds=(1e-3, 2 * top), method="bounded")
    # Near 0 the pole at 0 comes close to the line: x^-c must not grow, and the nodes are dense
    # where the line is near.
    c = max(float(lowest.x), min(_LOWEST, _GROWTH / max(abs(log_x), 1e-300)))
    peak = height(c)
    end = 1.0
    while log_transform(np.asarray(c + 1j * end)).real - c * log_x > peak - _DECAY:
        end *= 1.5
    u = np.linspace(0, np.arcsinh(end / c), _NODES)
    tau = c * np.sinh(u)
    values = (
        np.exp(log_transform(c + 1j * tau) - (c + 1j * tau) * log_x - peak).real * c * np.cosh(u)
    )
    return float(np.exp(peak) * (values.sum() - values[0] / 2) * (u[1] - u[0]) / np.pi)
