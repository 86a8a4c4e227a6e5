"""The public name of the adapter of array functions: NumPy, JAX, MLX, and whatever speaks DLPack."""

from properties.targets.array_libraries import DLPack, Jax, Library, Mlx, NumPy, library
from properties.targets.arrays import from_arrays

__all__ = ["DLPack", "Jax", "Library", "Mlx", "NumPy", "from_arrays", "library"]
