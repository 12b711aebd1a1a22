"""Trains the demo model on synthetic conversations: by hand, with PyTorch, best on a GPU.

    python -m pensieve.scripts.demo_model.train --corpus corpus.txt --seed 1 --steps 8879

Short rows first, half of them random tokens that repeat, until copying has formed; then longer and longer
ones. The optimizer is Muon for the matrices (Jordan et al. 2024) and AdamW for the rest.
"""

import argparse
import json
import multiprocessing
import random
import time
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from tokenizers import Tokenizer

from pensieve.scripts.demo_model import MODEL_FOLDER
from pensieve.scripts.demo_model.corpus import text_lines
from pensieve.scripts.demo_model.network import Network, Shape, Weights, export, init_weights, load_weights
from pensieve.scripts.demo_model.rows import Pools, RowMaker

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
MUON_LR, ADAM_LR, MOMENTUM, WEIGHT_DECAY = 0.02, 2e-3, 0.95, 0.01
WARMUP_STEPS, FLAT_SHARE, LAST_LR, RESUMED_LR = 100, 0.25, 0.01, 0.3


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training, with its mix of row lengths."""

    until: float  # the share of all steps at which the phase ends
    lengths: dict[int, float]  # weight of each row length
    repeats: float  # share of rows that are repeated random tokens


PHASES = (
    Phase(0.01, {512: 1}, 0.5),
    Phase(0.30, {512: 2, 2048: 3}, 0.0),
    Phase(0.60, {512: 1, 2048: 3, 8192: 3}, 0.0),
    Phase(1.00, {512: 2, 2048: 4, 8192: 3, 16384: 2, 32768: 1}, 0.0),
)


@dataclass(frozen=True, slots=True)
class Order:
    """A batch for a worker to make: rows of one length, fixed by the seed."""

    seed: int
    length: int
    num_rows: int
    repeats: float


Arrays = tuple[Any, Any, Any, Any]


class Batches:
    """Makes batches in worker processes, which inherit the pools by fork and answer in a fixed order."""

    def __init__(self, tokenizer: Tokenizer, lines: list[str], seed: int, pool_size: int) -> None:
        self.tokenizer = tokenizer
        self.lines = lines
        self.pools = Pools(tokenizer, lines, seed, pool_size)

    def make(self, order: Order) -> Arrays:
        """Return tokens (B, L), and for all N predictions the flat place, the token and its weight."""
        maker = RowMaker(self.tokenizer, self.pools, self.lines, order.seed)
        num_repeats = round(order.repeats * order.num_rows)
        rows = [maker.repeats(order.length) for _ in range(num_repeats)]
        rows += [maker.row(order.length) for _ in range(order.num_rows - num_repeats)]
        tokens = np.array([row.ids for row in rows], np.int32)
        weights = np.array([row.weights for row in rows], np.int32)
        weights[:, 0] = 0
        marked = np.flatnonzero(weights)
        return tokens, (marked - 1).astype(np.int32), tokens.reshape(-1)[marked], weights.reshape(-1)[marked]

    def work(self, inbox: Any, outbox: Any) -> None:
        """Make the batches of the plan that arrives: one worker's life."""
        for order in inbox.get():
            outbox.put(self.make(order))

    def start_workers(self, num_workers: int) -> None:
        """Fork the workers, which must happen before the device is touched."""
        context = multiprocessing.get_context("fork")
        self.queues = [(context.Queue(), context.Queue(maxsize=8)) for _ in range(num_workers)]
        for pair in self.queues:
            context.Process(target=self.work, args=pair, daemon=True).start()

    def stream(self, plan: list[Order]) -> Iterator[Arrays]:
        """Yield the plan's batches in order; the workers take turns."""
        for index, (inbox, _) in enumerate(self.queues):
            inbox.put(plan[index :: len(self.queues)])
        for step in range(len(plan)):
            yield self.queues[step % len(self.queues)][1].get()


def orders(seed: int, num_steps: int, batch_tokens: int, phases: abc.Sequence[Phase]) -> Iterator[Order]:
    """Yield the batch of every step."""
    rng = random.Random(seed)
    for step in range(num_steps):
        phase = next(phase for phase in phases if step < phase.until * num_steps)
        length = min(rng.choices(list(phase.lengths), list(phase.lengths.values()))[0], batch_tokens)
        yield Order(seed * 1_000_003 + step, length, batch_tokens // length, phase.repeats)


def rate(step: int, num_steps: int) -> float:
    """Return the learning rates' factor: it rises in the warm-up, holds, then falls linearly."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    falling = (step / num_steps - FLAT_SHARE) / (1 - FLAT_SHARE)
    return 1.0 - (1 - LAST_LR) * max(0.0, falling)


def orthogonalize(matrices: Any) -> Any:
    """Return roughly the nearest orthogonal matrices of a stack (N, R, C): 5 Newton-Schulz steps in bf16."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Optimizer:
    """Muon for the stacked matrices, AdamW for embedding and norms."""

    def __init__(self, weights: Weights) -> None:
        self.matrices = [weights[name] for name in MATRICES]
        self.momenta = [torch.zeros_like(matrix) for matrix in self.matrices]
        self.others = [tensor for name, tensor in weights.items() if name not in MATRICES]
        fused = self.others[0].is_cuda
        self.adam = torch.optim.AdamW(
            self.others, lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0, fused=fused
        )

    @torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
    def step(self, factor: float) -> None:
        """Apply the gradients, and clear them."""
        torch.nn.utils.clip_grad_norm_([*self.matrices, *self.others], 1.0)
        for matrix, momentum in zip(self.matrices, self.momenta, strict=True):
            momentum.lerp_(matrix.grad, 1 - MOMENTUM)
            update = orthogonalize(matrix.grad.lerp(momentum, MOMENTUM))
            scale = max(1.0, matrix.shape[1] / matrix.shape[2]) ** 0.5
            matrix.mul_(1 - factor * MUON_LR * WEIGHT_DECAY).add_(update, alpha=-factor * MUON_LR * scale)
            matrix.grad = None
        for group in self.adam.param_groups:
            group["lr"] = factor * ADAM_LR
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


class Log:
    """Prints mean loss and accuracy by row length; reads the device only when it prints."""

    def __init__(self, num_steps: int, every: int) -> None:
        self.num_steps = num_steps
        self.every = every
        self.start = time.monotonic()
        self.seen: dict[int, list[tuple[Any, Any]]] = {}

    def add(self, step: int, length: int, loss: Any, accuracy: Any) -> None:
        """Take a step's figures, and print when it is time."""
        self.seen.setdefault(length, []).append((loss.detach(), accuracy))
        if (step + 1) % self.every and step + 1 != self.num_steps:
            return
        parts = []
        for size, figures in sorted(self.seen.items()):
            losses, accuracies = (torch.stack(column).mean().item() for column in zip(*figures, strict=True))
            parts.append(f"{size}: {losses:.4f} {accuracies:.4f}")
        print(f"{step + 1:6} {time.monotonic() - self.start:6.0f} s  " + "  ".join(parts), flush=True)
        self.seen.clear()


def spaced_pairs(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Tokens that begin with a space, each with the same token without it."""
    vocab = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(vocab[left + right], vocab[right]) for left, right in merges if left == "Ġ" and right[0] != "Ġ"]


def on_device(arrays: Arrays, device: str) -> Arrays:
    """Return the arrays as int64 tensors, copied without waiting for the device."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if device == "cuda":
        tensors = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    tokens, places, targets, weights = (tensor.long() for tensor in tensors)
    return tokens, places, targets, weights


def learn(network: Network, optimizer: Optimizer, arrays: Arrays, factor: float) -> tuple[Any, Any]:
    """Train one step; return its loss and accuracy."""
    device = network.device
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        loss, accuracy = network.loss(*on_device(arrays, device))
    loss.backward()
    optimizer.step(factor)
    return loss, accuracy


def run(options: argparse.Namespace, batches: Batches) -> None:
    """Train to the last step; export now and then, and at the end."""
    eos = batches.tokenizer.get_vocab()["<|im_end|>"]
    num_steps, resumed = options.steps, options.start is not None
    plan = list(orders(options.seed, num_steps, options.batch_tokens, PHASES[-1:] if resumed else PHASES))
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    shape = Shape()
    weights = init_weights(shape, spaced_pairs(batches.tokenizer), options.device)
    if resumed:
        load_weights(weights, options.start)
    network = Network(shape, weights, options.device, compiled=options.compile)
    optimizer = Optimizer(weights)
    log = Log(num_steps, options.log_every)
    made = batches.stream(plan)
    for step, (order, arrays) in enumerate(zip(plan, made, strict=True)):
        loss, accuracy = learn(
            network,
            optimizer,
            arrays,
            RESUMED_LR * rate(step, num_steps) if resumed else rate(step, num_steps),
        )
        log.add(step, order.length, loss, accuracy)
        if (step + 1) % options.save_every == 0 or step + 1 == num_steps:
            export(shape, weights, options.out, eos)


def main() -> None:
    """Read the options, the tokenizer and the corpus, and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--start", type=Path, help="a model folder to go on from, at a lower rate")
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--pool-size", type=int, default=3000, help="how many distracting prompts to draw from"
    )
    parser.add_argument("--workers", type=int, default=13)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=1000)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    lines = text_lines(options.corpus.read_text(encoding="utf-8").split("\f"))
    batches = Batches(tokenizer, lines, options.seed, options.pool_size)
    batches.start_workers(options.workers)
    run(options, batches)


if __name__ == "__main__":
    main()
