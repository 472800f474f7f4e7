"""Rectified flow: the noise convention, guidance, samplers."""
