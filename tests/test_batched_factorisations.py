"""Several batched factorisations in one jitted function come to an end.

In jax 0.10 they wait for one another inside XLA's worker threads, for ever on a machine with two
cores, which is why the package excludes that series. The work runs in a subprocess with a time
limit: a hang is a failed test. Six independent groups are enough to make every run of jax 0.10.2
hang there, in float32 and in float64; fewer are not."""

import json

import pytest

from tests.support import run_python

PROGRAM = """
import json
import jax, jax.numpy as jnp

jax.config.update("jax_enable_x64", {x64})
groups, batch, n = 6, 8, 48
x = jax.random.normal(jax.random.key(0), (groups, batch, n, n))
eye = jnp.eye(n, dtype=x.dtype)
matrices = x @ jnp.swapaxes(x, -1, -2) / n + eye


def errors(a):
    factor = jnp.linalg.cholesky(a)
    inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    values, vectors = jnp.linalg.eigh(a)
    permutation, lower, upper = jax.scipy.linalg.lu(a)
    residuals = {{
        "cholesky": factor @ factor.T - a,
        "triangular solve": inverse @ factor - eye,
        "eigh": (vectors * values[None, :]) @ vectors.T - a,
        "lu": permutation @ lower @ upper - a,
    }}
    return {{name: jnp.abs(r).max() for name, r in residuals.items()}}


step = jax.jit(lambda a: [jax.vmap(errors)(a[i]) for i in range(groups)])
for _ in range(10):
    found = jax.block_until_ready(step(matrices))
print(json.dumps({{name: max(float(f[name].max()) for f in found) for name in found[0]}}))
"""


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-12), (False, 1e-4)])
def test_batched_factorisations_end_and_are_right(x64, tolerance, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the programs that users have
    errors = json.loads(run_python(PROGRAM.format(x64=x64), timeout=120))
    assert len(errors) == 4
    assert all(error < tolerance for error in errors.values()), errors
