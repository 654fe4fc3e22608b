"""Equilibrium Propagation in NumPy."""
