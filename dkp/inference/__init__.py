"""Engines: one room each, and beside them what two of them share."""
