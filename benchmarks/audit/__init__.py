"""Audits of variational inference by Markov chains and by the evidence."""
