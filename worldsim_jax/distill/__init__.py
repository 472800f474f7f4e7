"""Divergences between what a student makes and what the teacher knows."""
