"""Check and time the cuda backend on a GPU, in one call; needs only a checkout, torch, triton and core's dependencies.

    python3 backends/cuda/bench/device_check.py --what ops,memory,kernels --out DIR
    python3 backends/cuda/bench/device_check.py --what tokens,engine --shapes qwen3-0.6b,llama3-8b

`what`: ops (every kernel against the fp64 reference), memory (allocator), plan (against what is used), kernels (decode,
layouts, prefill, linear, stream, sample, draw), between and uneven (products between attentions, attention of the
workload's rows), tokens (engine paths agree), early (kernels that start early, bit for bit), conformance (the suite,
whole where there are two GPUs; DIR/cuda.json), engine (latency and throughput), sweep, steps (of decode, as graphs),
trace, profile (of throughput), startup (with what was compiled before, and without). Each part runs in a process of its
own with a time limit, so that one that fails does not take the others down. Exits 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = ("core", "kernels/triton", "kernels/cuda", "backends/cuda", "conformance")
ENTRY_POINTS = {
    "quire": "[quire.backends]\nreference = quire.backend.reference_manifest\n",
    "quire_cuda": "[quire.backends]\ncuda = quire_cuda.manifest\n",
    "quire_conformance": "[pytest11]\nquire_conformance = quire_conformance.plugin\n",
}
KERNELS = ("decode", "prefill", "layouts", "linear", "stream", "sample", "draw")
BETWEEN = ("between", "uneven")
LIMITS_S = {"ops": 240, "memory": 60, "tokens": 180, "conformance": 400, "engine": 240, "sweep": 240}


def main() -> int:
    """Run the parts that were asked for."""
    options = parse()
    parts = [part for name in options.what.split(",") for part in (KERNELS if name == "kernels" else (name,))]
    wrong = [part for part in parts if not run_part(part, options)]
    print(f"\n{len(parts) - len(wrong)} of {len(parts)} parts are right", *(["wrong:", *wrong] if wrong else []))
    return 1 if wrong else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="ops,memory,kernels,tokens,engine")
    parser.add_argument("--shapes", default="qwen3-0.6b")
    parser.add_argument("--dependent", default="on", help="the backend's option dependent_launch")
    parser.add_argument("--kv-dtype", default="auto", help="of the cache, for the engine")
    parser.add_argument("--out", default="", help="folder for each part's whole output")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        failures = inside(options.part, options)
        print(*failures, sep="\n")
        sys.exit(1 if failures else 0)
    return options


def run_part(part: str, options: argparse.Namespace) -> bool:
    """Run one part in a process of its own; say whether it was right."""
    print(f"\n== {part}", flush=True)
    started = time.perf_counter()
    command = [sys.executable, __file__, "--part", part, "--shapes", options.shapes, "--dependent", options.dependent]
    command += ["--out", options.out, "--kv-dtype", options.kv_dtype]
    with tempfile.TemporaryDirectory() as site, open(Path(options.out or site) / f"{part}.txt", "w+") as log:  # noqa: PTH123
        process = subprocess.Popen(
            command, env=environment(Path(site)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            output, _ = process.communicate(timeout=LIMITS_S.get(part, 180))
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += f"\n{part} ran out of its time"
        log.write(output)
    print("\n".join(output.splitlines()[-160:]))
    print(f"== {part}: exit {process.returncode}, {time.perf_counter() - started:.0f} s", flush=True)
    return process.returncode == 0


def environment(site: Path) -> dict[str, str]:
    """Put the checkout's packages on the path, with the entry points that installing them would have written."""
    for name, text in ENTRY_POINTS.items():
        info = site / f"{name}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(text)
    paths = [*(str(ROOT / source / "src") for source in SOURCES), str(site), os.environ.get("PYTHONPATH", "")]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def inside(part: str, options: argparse.Namespace) -> list[str]:
    """Run one part in this process; return what is wrong."""
    if part == "ops":
        from check_ops import check_ops

        return check_ops()
    if part == "memory":
        from check_memory import check_memory

        return check_memory()
    if part == "conformance":
        return check_conformance(Path(options.out or tempfile.gettempdir()), options.dependent)
    if part in KERNELS:
        time_part(part)
        return []
    if part in BETWEEN:
        import time_between

        getattr(time_between, f"time_{part}")()
        return []
    import check_engine

    if part == "tokens":
        return check_engine.check_tokens()
    if part == "early":
        import check_early

        return [wrong for shape in options.shapes.split(",") for wrong in check_early.check_early(shape)]
    if part == "plan":
        return [wrong for shape in options.shapes.split(",") for wrong in check_engine.check_plan(shape)]
    if part == "startup":
        check_engine.time_startup(options.shapes.split(",")[0])
        return []
    what = {"latency", "throughput"} if part == "engine" else {part}
    for shape in options.shapes.split(","):
        check_engine.time_engine(shape, what, options.dependent, options.kv_dtype)
    return []


def check_conformance(folder: Path, dependent: str) -> list[str]:
    """Run the conformance suite, write its report, return the failures. On one GPU collectives are left out."""
    import torch

    from quire_conformance.command import run_suite
    from quire_conformance.report import write_report
    from quire_conformance.settings import Settings

    levels = None if torch.cuda.device_count() > 1 else (0, 1, 2, 3, 4, 5, 7)
    report = run_suite(Settings("cuda", levels, {"dependent_launch": dependent}, ranks=2), quiet=True)
    write_report(report, folder / "cuda.json")
    print(f"conformance: {len(report.tests)} tests, {len(report.failures)} failed")
    return [f"{test.id}: {test.message[:400]}" for test in report.failures]


def time_part(part: str) -> None:
    import time_kernels
    from timing import ceilings

    limits = ceilings()
    print(", ".join(f"{name} {value:.0f}" for name, value in limits.items()), flush=True)
    needs = {"decode": "copy GB/s", "linear": "copy GB/s", "stream": "copy GB/s", "prefill": "matmul TFLOP/s"}
    timer = getattr(time_kernels, f"time_{part}")
    timer(limits[needs[part]]) if part in needs else timer()


if __name__ == "__main__":
    sys.exit(main())
