"""Paged attention in kernels of our own, for Metal and CUDA.

The bodies (`*.h`) are written once; a prelude for each language defines the words that languages spell
differently (README.md lists them). A third prelude is for the C++ compiler, so that the tests run the text
that runs on a GPU.
"""
