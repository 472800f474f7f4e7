"""Paradigms: what a model sees of the past while it trains, and the rollout."""
