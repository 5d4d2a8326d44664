"""Train the demo model on one GPU (or, for a check, a few steps on a CPU).

    python train.py TOKENS_DIR OUT_DIR --budget-s 420      as many steps as the time allows, measured first
    python train.py TOKENS_DIR OUT_DIR --num-steps 6000    the same run again, on any machine
    python train.py TOKENS_DIR OUT_DIR --num-steps 1300 --init RUN --mix anneal    go on from another run's best

Writes log.jsonl (loss by step, held-out loss by group), run.json, and the weights of the best held-out loss and of
the last step as bfloat16, in parts below 15 MiB (best.part0, last.part0, …) that export.py joins.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from model import CONFIG, Llama
from safetensors.torch import load, save
from torch import Tensor

SEED = 20261122
# Share of each group of documents in a batch.
MIXES = {
    "pretrain": {"python": 0.24, "more": 0.56, "chat": 0.20},
    "anneal": {"python": 0.35, "more": 0.20, "python_chat": 0.45},
}
HELD_OUT_GROUPS = ("python", "more", "chat")
NUM_PART_BYTES = 14 * 2**20


class Settings(NamedTuple):
    seq_len: int = 2048
    num_rows: int = 64  # rows of one step: 131,072 tokens
    peak_lr: float = 3e-3
    num_warmup_steps: int = 200
    weight_decay: float = 0.1
    num_eval_rows: int = 64  # per group
    num_evals: int = 24
    mix: str = "pretrain"  # key of MIXES


class Tokens(NamedTuple):
    """Token arrays by group, on the training device as int32."""

    train: dict[str, Tensor]
    held_out: dict[str, Tensor]


def load_tokens(folder: Path, mix: str, device: torch.device) -> Tokens:
    def load(split: str, groups: Iterable[str]) -> dict[str, Tensor]:
        arrays = {group: np.load(folder / f"{split}_{group}.npy").astype(np.int32) for group in groups}
        return {group: torch.from_numpy(array).to(device) for group, array in arrays.items()}

    return Tokens(load("train", MIXES[mix]), load("held_out", HELD_OUT_GROUPS))


def draw_rows(tokens: dict[str, Tensor], settings: Settings, rng: torch.Generator) -> Tensor:
    """Return [num_rows, seq_len + 1] windows at random offsets, each group with its share of the rows."""
    shares = MIXES[settings.mix]
    counts = [round(share * settings.num_rows) for share in shares.values()]
    counts[-1] = settings.num_rows - sum(counts[:-1])
    span = torch.arange(settings.seq_len + 1, device=tokens["python"].device)
    rows = []
    for group, count in zip(shares, counts, strict=True):
        start = torch.randint(len(tokens[group]) - settings.seq_len - 1, (count,), generator=rng)
        rows.append(tokens[group][start.to(span.device)[:, None] + span])
    return torch.cat(rows).long()


def learning_rate(step: int, num_steps: int, settings: Settings) -> float:
    """Warm up linearly, then decay linearly to zero."""
    warmup = min(settings.num_warmup_steps, max(1, num_steps // 10))
    if step < warmup:
        return settings.peak_lr * (step + 1) / warmup
    return settings.peak_lr * (num_steps - step) / (num_steps - warmup)


def make_optimizer(model: Llama, settings: Settings, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    lr = torch.tensor(settings.peak_lr, device=device)
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=device.type == "cuda")


class Trainer:
    """One training run: model, optimizer, data and the random stream that picks rows."""

    def __init__(self, tokens: Tokens, settings: Settings, device: torch.device, init: Path | None = None) -> None:
        self.tokens, self.settings, self.device = tokens, settings, device
        self.initial_state = read_weights(init) if init else None
        self.model = Llama().to(device)
        self.optimizer = make_optimizer(self.model, settings, device)
        is_cuda = device.type == "cuda"
        self.loss = torch.compile(self.model.loss, dynamic=False) if is_cuda else self.model.loss
        self.reset()

    def reset(self) -> None:
        """Return to the seeded start: weights, optimizer state and random stream."""
        torch.manual_seed(SEED)
        self.rng = torch.Generator().manual_seed(SEED)
        self.model.reset_parameters()
        if self.initial_state is not None:
            self.model.load_state_dict(self.initial_state)
        self.optimizer.state.clear()

    def mean_loss(self, rows: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.loss(rows[:, :-1], rows[:, 1:])

    def step(self, step: int, num_steps: int) -> Tensor:
        """Take one optimizer step and return its loss (a device scalar)."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(learning_rate(step, num_steps, self.settings))
        loss = self.mean_loss(draw_rows(self.tokens.train, self.settings, self.rng))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the held-out loss of each group over the same evenly spaced windows every time."""
        seq_len, num_rows = self.settings.seq_len, self.settings.num_eval_rows
        losses = {}
        for group, tokens in self.tokens.held_out.items():
            start = torch.linspace(0, len(tokens) - seq_len - 2, num_rows).long()
            offsets = (start[:, None] + torch.arange(seq_len + 1)).to(tokens.device)
            losses[group] = self.mean_loss(tokens[offsets].long()).item()
        return losses


def measure_step_s(trainer: Trainer) -> float:
    """Return seconds per step, compilation left out, and reset the trainer."""
    for step in range(10):
        trainer.step(step, 1000).item()
    trainer.evaluate()
    start = time.perf_counter()
    for step in range(10, 60):
        loss = trainer.step(step, 1000)
    loss.item()
    step_s = (time.perf_counter() - start) / 50
    trainer.reset()
    return step_s


def read_weights(run: Path) -> dict[str, Tensor]:
    """Read the best weights of an earlier run."""
    data = b"".join(part.read_bytes() for part in sorted(run.glob("best.part*")))
    return {name.removeprefix("model."): weight.float() for name, weight in load(data).items()}


def write_weights(model: Llama, out: Path, label: str) -> None:
    """Write the weights under Hugging Face's names, as bfloat16, in parts that travel."""
    state = {f"model.{name}": weight.detach().to("cpu", torch.bfloat16) for name, weight in model.state_dict().items()}
    data = save(state, metadata={"format": "pt"})
    for index, start in enumerate(range(0, len(data), NUM_PART_BYTES)):
        (out / f"{label}.part{index}").write_bytes(data[start : start + NUM_PART_BYTES])


def train(trainer: Trainer, num_steps: int, out: Path) -> None:
    """Run all steps; evaluate regularly; keep the weights of the best mean held-out loss, and the last ones."""
    eval_interval = max(1, math.ceil(num_steps / trainer.settings.num_evals))
    best, start, recent = math.inf, time.perf_counter(), []
    with (out / "log.jsonl").open("w", buffering=1) as log:
        for step in range(num_steps):
            recent.append(trainer.step(step, num_steps))
            is_eval = (step + 1) % eval_interval == 0 or step + 1 == num_steps
            if len(recent) < 25 and not is_eval:
                continue
            entry = {"step": step + 1, "train_loss": torch.stack(recent).mean().item(), "elapsed_s": 0.0}
            recent = []
            if is_eval:
                entry["held_out_loss"] = losses = trainer.evaluate()
                mean = sum(losses.values()) / len(losses)
                if mean < best:
                    best = mean
                    write_weights(trainer.model, out, "best")
                entry["is_best"] = mean == best
            entry["elapsed_s"] = time.perf_counter() - start
            log.write(json.dumps(entry) + "\n")
            if is_eval:
                print(json.dumps(entry), flush=True)
    write_weights(trainer.model, out, "last")


def check_against_transformers() -> None:
    """Raise AssertionError unless model.py and LlamaForCausalLM agree on random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    ours, theirs = Llama(), LlamaForCausalLM(LlamaConfig(**{**CONFIG, "dtype": "float32"}))
    state = {f"model.{name}": weight for name, weight in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=False)
    ids = torch.randint(CONFIG["vocab_size"], (2, 67))
    torch.testing.assert_close(ours(ids), theirs.eval()(ids).logits, rtol=1e-4, atol=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--budget-s", type=float, default=420.0)
    parser.add_argument("--init", type=Path, help="run folder whose best weights are the start")
    parser.add_argument("--check", action="store_true", help="compare model.py with transformers first")
    for name, default in Settings()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    args = parser.parse_args()
    started = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.check:
        check_against_transformers()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = Settings(**{name: getattr(args, name) for name in Settings._fields})
    tokens = load_tokens(args.tokens, settings.mix, device)
    trainer = Trainer(tokens, settings, device, args.init)
    step_s = None if args.num_steps else measure_step_s(trainer)
    left_s = args.budget_s - (time.perf_counter() - started)
    num_steps = args.num_steps or int(0.96 * left_s / step_s)
    run = {
        "seed": SEED,
        "num_steps": num_steps,
        "step_s": step_s,
        "settings": settings._asdict(),
        "num_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "num_train_tokens": {group: len(array) for group, array in tokens.train.items()},
        "num_held_out_tokens": {group: len(array) for group, array in tokens.held_out.items()},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    (args.out / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    print(json.dumps(run), flush=True)
    train(trainer, num_steps, args.out)


if __name__ == "__main__":
    main()
