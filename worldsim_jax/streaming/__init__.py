"""Streaming: a trained world, stepped action by action."""
