"""Implementations whose verdict is known beforehand: deviations are wrong, controls right but written otherwise."""
