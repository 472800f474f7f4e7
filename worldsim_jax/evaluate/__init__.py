"""Evaluation against the exact future, films, and the report."""
