"""The public name of the adapter of array functions: NumPy, JAX, MLX, and whatever speaks DLPack."""

from properties.targets.arrays import DLPack, Jax, Library, Mlx, NumPy, from_arrays, library

__all__ = ["DLPack", "Jax", "Library", "Mlx", "NumPy", "from_arrays", "library"]
