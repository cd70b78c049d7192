"""The evidence, by tempered sequential Monte Carlo, and what is chosen by it."""
