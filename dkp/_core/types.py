"""Array aliases of the whole package.

Shapes are written in the notation of docs/notation.md: P inducing points, N or B data points, D
features, C outputs, S posterior draws.
"""

from jax import Array
from jaxtyping import Array as _JaxtypingArray
from jaxtyping import Bool, Float, Int, Key, PRNGKeyArray

__all__ = ["Array", "Bool", "Float", "Int", "Key", "PRNGKeyArray", "Scalar"]

Scalar = Float[_JaxtypingArray, ""]
