"""Draw runs/*.jsonl as loss.svg: training loss and held-out loss by group, stage after stage."""

import json
from pathlib import Path

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
GROUPS = ("python", "more", "chat")


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def draw(axes: plt.Axes, entries: list[dict], title: str) -> None:
    """Draw one run into one pair of axes."""
    axes.plot([e["step"] for e in entries], [e["train_loss"] for e in entries], color="0.6", lw=1, label="training mix")
    evals = [e for e in entries if "held_out_loss" in e]
    for group in GROUPS:
        losses = [e["held_out_loss"][group] for e in evals]
        axes.plot([e["step"] for e in evals], losses, marker=".", label=f"held out: {group}")
    axes.set(title=title, xlabel="step (131,072 tokens)", ylim=(0.5, 4.5))
    axes.grid(alpha=0.3)


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "quire"  # same bytes for the same data
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    draw(left, read_log(HERE / "runs" / "pretrain.jsonl"), "pretrain (step 2370 kept)")
    left.axvline(2370, color="0.3", ls=":")
    draw(right, read_log(HERE / "runs" / "anneal.jsonl"), "anneal (step 1300 released)")
    left.set_ylabel("nats per token")
    right.legend()
    figure.savefig(HERE / "loss.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
