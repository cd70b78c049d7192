"""What Markov chains leave behind: draws, statistics, and whether to trust them."""

import functools
import math
from typing import Any

import numpy as np

from dkp._core.record import record
from dkp.inference.draws_posterior import DrawsPosterior

__all__ = ["MCMCPosterior"]

_R_HAT = 1.01
_FEW = 100
_FEWEST = 4


@record
class MCMCPosterior(DrawsPosterior):
    """Draws from the exact posterior, by chains that warmed up together.

    They share one metric, and have a step size each.

    Attributes:
        method: of the transitions.
        stats: of the kept transitions, (chains, draws): ``acceptance_rate``, ``diverging``,
            ``energy``, ``n_steps``, ``tree_depth``, ``step_size``.
        functionals: numbers that do not change when features are rotated, (chains, draws, …).
        divergences: of all transitions after warm-up.
        jitter: the largest that was added to the diagonal of a kernel matrix.
        stopped: "finished" or "interrupted".
        warmup_seconds: of warm-up, compilation included.
        seconds: of sampling, likewise.
    """

    method: str
    stats: dict[str, np.ndarray]
    functionals: dict[str, np.ndarray]
    divergences: int
    jitter: float
    stopped: str
    warmup_seconds: float
    seconds: float

    @functools.cached_property
    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Rank-normalised split R-hat, effective sample sizes, mean and standard deviation.

        They are those of every functional, arrays entry by entry; the sizes are of the bulk and of
        the tail.

        Source: Vehtari et al. 2021.
        """
        import arviz as az

        found = {}
        for name, draws in _scalars(self.functionals).items():
            constant = not np.ptp(draws) > 0  # or not a number
            found[name] = {
                "mean": float(draws.mean()),
                "sd": float(draws.std(ddof=1)) if draws.size > 1 else math.nan,
                "ess_bulk": math.nan if constant else float(az.ess(draws, method="bulk")),
                "ess_tail": math.nan
                if constant
                else float(az.ess(draws, method="tail", prob=(0.05, 0.95))),
                "r_hat": math.nan if constant else float(az.rhat(_halves(draws))),
            }
        return found

    @functools.cached_property
    def stuck(self) -> tuple[int, ...]:
        """Chains that did not move; none is known of where there is one draw."""
        if self.n_draws < 2:
            return ()
        # false where it is not a number
        moved = np.any(np.diff(self.z, axis=1) ** 2 > 0, axis=(1, 2))
        return tuple(int(i) for i in np.flatnonzero(~moved))

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against trusting the draws; empty where nothing does."""
        found = []
        if self.divergences:
            found.append(
                f"{self.divergences} divergent transitions: raise target_acceptance, or "
                "reparametrise."
            )
        if self.stuck:
            found.append(
                f"chains {list(self.stuck)} did not move: look at their start and at the priors."
            )
        if self.n_draws < _FEWEST:
            found.append(
                f"{self.n_draws} draws a chain are too few to know R-hat and ESS: take {_FEWEST} "
                "or more."
            )
        worst, r_hat = self._extreme("r_hat", max)
        if r_hat > _R_HAT:
            found.append(f"R-hat is {r_hat:.3f} for {worst} (over {_R_HAT}): run longer chains.")
        for kind in ("ess_bulk", "ess_tail"):
            worst, ess = self._extreme(kind, min)
            if ess < _FEW * self.n_chains:
                label = kind.replace("_", " ").replace("ess", "ESS")
                found.append(
                    f"{label} is {ess:.0f} for {worst} (below {_FEW} a chain): run longer chains."
                )
        return tuple(found)

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the draws."""
        return {
            "engine": "mcmc",
            "method": self.method,
            "chains": self.n_chains,
            "draws": self.n_draws,
            "r_hat": self._extreme("r_hat", max)[1],
            "ess_bulk": self._extreme("ess_bulk", min)[1],
            "ess_tail": self._extreme("ess_tail", min)[1],
            "divergences": self.divergences,
            "stuck_chains": len(self.stuck),
            "jitter": self.jitter,
            "acceptance_rate": float(self.stats["acceptance_rate"].mean()),
            "steps_per_draw": float(self.stats["n_steps"].mean()),
            "stopped": self.stopped,
            "warmup_seconds": self.warmup_seconds,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        """The functionals as a table, what was run, and every warning."""
        width = max(map(len, self.diagnostics), default=0)
        head = f"{'':{width}}  {'mean':>10} {'sd':>10} {'ESS bulk':>9} {'ESS tail':>9} {'R-hat':>6}"
        rows = [
            f"{name:{width}}  {d['mean']:>10.4g} {d['sd']:>10.4g} {d['ess_bulk']:>9.0f} "
            f"{d['ess_tail']:>9.0f} "
            f"{d['r_hat']:>6.3f}"
            for name, d in self.diagnostics.items()
        ]
        ran = (
            f"{self.method}: {self.n_chains} chains of {self.n_draws} draws, {self.stopped} in "
            f"{self.warmup_seconds + self.seconds:.0f} s; {self.divergences} divergences"
        )
        return "\n".join([head, *rows, ran, *(f"WARNING: {text}" for text in self.warnings)])

    def _extreme(self, kind: str, which: Any) -> tuple[str, float]:
        """The functional with the largest or smallest value of a diagnostic."""
        values = {name: d[kind] for name, d in self.diagnostics.items() if not math.isnan(d[kind])}
        if not values:
            return "", math.nan
        name = which(values, key=lambda n: values[n])
        return name, values[name]


def _halves(draws: np.ndarray) -> np.ndarray:
    """Chains as they are, or the two halves of one, (chains, draws).

    Split R-hat splits them again.
    """
    return draws if len(draws) > 1 else draws[:, : draws.shape[1] // 2 * 2].reshape(2, -1)


def _scalars(functionals: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every entry of every functional, (chains, draws)."""
    found = {}
    for name, values in functionals.items():
        for index in np.ndindex(values.shape[2:]):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            found[label] = np.asarray(values[(slice(None), slice(None), *index)], float)
    return found
