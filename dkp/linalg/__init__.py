"""Arrays: factorisations, random factors, special functions."""
