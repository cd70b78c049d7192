"""Engines: each takes a model and data and returns a posterior."""
