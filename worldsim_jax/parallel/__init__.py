"""Devices: the mesh and how arrays are laid out on it."""
