"""The acceptance suite: what clients, disks, models and the engine may do, each with a figure.

`make test-all` runs its quick form; `make faults` runs the long one and writes docs/reliability.md's table.
"""
