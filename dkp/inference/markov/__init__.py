"""Markov chains over Gram matrices."""
