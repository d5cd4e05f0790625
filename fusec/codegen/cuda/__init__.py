"""The CUDA target: Numba kernels, compiled to cubins on any machine."""
