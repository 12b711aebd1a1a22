"""Compiles the kernels of a model on CUDA before MLX would, all at a time, and keeps them as files."""
