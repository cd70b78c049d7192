"""The Gram matrix, as the blocks that inference needs, and the inputs that start it.

With inducing points a Gram is three blocks: ``ii`` among the inducing points, ``ti`` between data
and inducing points, and only the diagonal ``tt`` among the data, so that time and memory are linear
in the number of data points. With all the data as its own inducing set it is ``ii`` alone.
"""

from dkp._core.record import value
from dkp._core.types import Array, Float
from dkp.linalg.diagonals import diagonal

__all__ = ["Gram", "Inputs"]


@value
class Inputs:
    """Features of the inducing points and, when there are other points, of the data.

    Attributes:
        i: of the inducing points.
        t: of the data, or None.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import kernels
        >>> from dkp.gram import Inputs
        >>> print(kernels.Linear()(Inputs(i=jnp.eye(2), t=jnp.ones((1, 2)))).ti)
        [[0.5 0.5]]
    """

    i: Float[Array, "P *space D"]
    t: Float[Array, "B *space D"] | None = None


@value
class Gram:
    """Blocks of a symmetric positive semi-definite matrix over inducing (i) and data (t) points.

    ``ti`` and ``tt`` are both present or both None.

    Attributes:
        ii: among the inducing points, (P, P).
        ti: between data and inducing points, (B, P).
        tt: the diagonal among the data, (B,).

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp.gram import Gram
        >>> gram = Gram(ii=2 * jnp.eye(2), ti=jnp.ones((3, 2)), tt=2 * jnp.ones(3))
        >>> print(gram.ii_diagonal)
        [2. 2.]
    """

    ii: Float[Array, "P P"]
    ti: Float[Array, "B P"] | None = None
    tt: Float[Array, " B"] | None = None

    @property
    def ii_diagonal(self) -> Float[Array, " P"]:
        return diagonal(self.ii)
