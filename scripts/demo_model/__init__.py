"""How the demo model in engine/demo/model was made: its conversations, tokenizer, training and evaluation.

They run from a clone, whose root `make install` installs as the package; a wheel does not have them.
engine/demo/README.md has the commands. Training alone needs PyTorch, which is no dependency of the project.
"""

from pathlib import Path

MODEL_FOLDER = Path(__file__).parents[2] / "engine" / "demo" / "model"
