"""Paged attention in kernels of our own, for Metal and CUDA.

The bodies (`*.h`) are written once; a prelude for each language gives them what it calls differently. A third
prelude is for the C++ compiler, so that the tests run the very text that runs on a GPU.
"""
