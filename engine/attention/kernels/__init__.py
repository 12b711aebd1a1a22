"""Paged attention in kernels of our own, for Metal and CUDA.

The bodies (`*.h`) are written once; a prelude for each language defines the words that the languages spell
differently (README.md lists them). A third prelude is for C++, so that the tests run the text that runs on a
GPU.
"""
