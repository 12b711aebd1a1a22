"""Mixture-of-experts layers as the engine's passes compute them on CUDA."""
