"""The parts of an evaluation: each maps a trial to figures, plots and films."""
