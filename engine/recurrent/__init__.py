"""Faster forms of the recurrences in mlx-lm's models; see `install_recurrent.py`."""
