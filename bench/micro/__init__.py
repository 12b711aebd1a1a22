"""Measures parts of Pensieve inside of their process: they may import whatever they measure."""
