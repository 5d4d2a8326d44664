"""Join the weights that train.py wrote and lay out an ordinary Hugging Face model directory.

`python export.py RUN_DIR MODEL_DIR --which last` writes what the package ships.
"""

import argparse
import json
from pathlib import Path

from model import CONFIG

GENERATION_CONFIG = {
    "do_sample": False,
    "bos_token_id": CONFIG["bos_token_id"],
    "eos_token_id": CONFIG["eos_token_id"],
    "pad_token_id": CONFIG["pad_token_id"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--which", choices=("best", "last"), default="best")
    args = parser.parse_args()
    parts = sorted(args.run.glob(f"{args.which}.part*"))
    if not parts:
        raise SystemExit(f"no {args.which}.part* in {args.run}")
    args.model.mkdir(parents=True, exist_ok=True)
    (args.model / "model.safetensors").write_bytes(b"".join(part.read_bytes() for part in parts))
    for name, content in (("config.json", CONFIG), ("generation_config.json", GENERATION_CONFIG)):
        (args.model / name).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
