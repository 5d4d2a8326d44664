"""Every seeded bug: where it is, the level that must catch it, and words that its message must hold."""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """`plugin` is the backend; `select` limits the level's tests (pytest's -k) to those meant for it; `quick` ones run
    in every test run. `manifest` replaces the plain manifest."""

    name: str
    level: int
    plugin: str
    says: str
    select: str = ""
    quick: bool = False
    manifest: str = ""


PLAIN = """
from quire.backend.contract import Found

API = (1, 0)
PLUGIN = "seeded_bugs.{plugin}"


def probe():
    return Found(0)
"""
IMPORTS_TORCH = "import torch\n" + PLAIN
PRINTS = PLAIN + '\nprint("found a chip")\n'
UNSTABLE = PLAIN.replace("return Found(0)", "import time; return Found(0, {{'at': str(time.time_ns())}})")
CHANGES_PATH = PLAIN + '\nimport sys\n\nsys.path.insert(0, "/opt/chip")\n'

OP = "right_as_the_reference and {}"
ATTENTION = OP.format("paged_attention")
SAMPLE = OP.format("sample")

CATALOGUE = (
    # -- 0: hygiene
    Bug("manifest-imports-torch", 0, "base:Seeded", "imports.*torch", "manifest", True, IMPORTS_TORCH),
    Bug("manifest-prints", 0, "base:Seeded", "prints 'found a chip", "manifest", False, PRINTS),
    Bug("manifest-changes-path", 0, "base:Seeded", "changes sys.path", "manifest", False, CHANGES_PATH),
    Bug("probe-unstable", 0, "base:Seeded", "answers differently", "manifest", False, UNSTABLE),
    Bug("environment-mutated", 0, "hygiene:MutatesEnvironment", "environment: OMP_NUM_THREADS", "environment"),
    Bug("torch-defaults-changed", 0, "hygiene:ChangesTorchDefaults", "default_dtype", "process"),
    Bug("core-patched", 0, "hygiene:PatchesCore", "replaces.*Scheduler.schedule", "patched", True),
    Bug("prints-on-opening", 0, "hygiene:Prints", "prints 'welcome", "prints"),
    # -- 1: contract
    Bug("claims-another-device", 1, "contract:ClaimsAnotherDevice", "fallback to another device", "claimed_type", True),
    Bug("claims-a-dtype-it-has-not", 1, "contract:ClaimsADtypeItHasNot", "float8_e4m3fn is claimed", "every_claimed"),
    Bug("claims-graphs", 1, "contract:ClaimsGraphs", "no bucket", "buckets"),
    Bug("swallows-options", 1, "contract:SwallowsOptions", "is swallowed", "option"),
    Bug("changes-its-mind", 1, "contract:ChangesItsMind", "quire_describe answers", "describing"),
    Bug("unexplained-change", 1, "contract:UnexplainedChange", "without a reason", "reason"),
    Bug("no-kernel-of-its-own", 1, "contract:NoKernelOfItsOwn", "in silence", "two_kernels"),
    Bug("kv-dtype-not-claimed", 1, "contract:KvDtypeItDoesNotClaim", "int8.*does not claim", "kv_constraints"),
    Bug("stale-expectation", 1, "contract:StaleExpectation", "stale.*that_was_renamed", "", True),
    Bug("passes-though-expected-to-fail", 1, "contract:PassesThoughExpectedToFail", "XPASS.*mended", "limits"),
    Bug("lies-about-depth", 1, "contract:LiesAboutDepth", "takes 5 steps at once", "facts"),
    # -- 2: memory and KV
    Bug("allocator-overlap", 2, "memory:OverlappingRegions", "share bytes", "share_bytes", True),
    Bug("leaked-region", 2, "memory:LeaksRegions", "leaks", "released_region_uses"),
    Bug("bytes-not-counted", 2, "memory:CountsNoBytes", "used_bytes says 0", "used_bytes"),
    Bug("misaligned-slab", 2, "memory:MisalignedSlab", "alignment_bytes", "aligned"),
    Bug("sleep-forgets", 2, "memory:SleepForgets", "bytes of .* are lost", "suspended"),
    Bug("memory-info-lies", 2, "memory:BoastsOfMemory", "does not tell the truth", "sees_allocations"),
    Bug("reads-are-live", 2, "memory:HandsOutLiveMemory", "live memory", "moment", True),
    Bug("sends-one-too-few", 2, "memory:SendsOneTooFew", "bytes change on the way", "comes_back"),
    Bug("out-of-memory-is-raw", 2, "memory:RaisesRawErrors", "must be raised as CapacityError", "too_much"),
    Bug("copies-keys-only", 2, "kernels:CopiesKeysOnly", "did not copy the values", "block_copies"),
    Bug("copies-first-layer-only", 2, "memory:CopiesFirstLayerOnly", "of layer 1", "block_copies"),
    Bug("block-table-by-one", 2, "memory:BlockTableByOne", "differs from the reference's", "rows_and_blocks"),
    Bug("spills-into-the-next-block", 2, "memory:SpillsIntoTheNextBlock", "differs from", "rows_and_blocks"),
    Bug("slot-by-one-in-the-cache", 2, "memory:SlotByOneInTheExecutor", "position \\d+ differs", "preferred", True),
    # -- 3: ops
    Bug("mask-by-one", 3, "kernels:MaskByOne", "paged_attention is wrong", ATTENTION, True),
    Bug("last-block-ignored", 3, "kernels:LastBlockIgnored", "paged_attention is wrong.*decode", ATTENTION),
    Bug("scale-twice", 3, "kernels:ScaleTwice", "paged_attention is wrong", ATTENTION),
    Bug("soft-cap-dropped", 3, "kernels:SoftCapDropped", "\\[soft cap\\]", ATTENTION, True),
    Bug("window-by-one", 3, "kernels:WindowByOne", "\\[window of 7\\]", ATTENTION),
    Bug("sinks-dropped", 3, "kernels:SinksDropped", "\\[sinks\\]", ATTENTION),
    Bug("head-groups-swapped", 3, "kernels:HeadGroupsSwapped", "\\[chunk\\]", ATTENTION),
    Bug("reads-past-the-end", 3, "kernels:ReadsPastTheEnd", "error inf", ATTENTION),
    Bug("fp16-accumulation", 3, "kernels:Fp16Accumulation", "float32: error", ATTENTION),
    Bug("slot-by-one", 3, "kernels:SlotByOne", "in key_cache", OP.format("kv_write")),
    Bug("padding-written", 3, "kernels:PaddingWritten", "padding only", OP.format("kv_write")),
    Bug("values-for-keys", 3, "kernels:ValuesForKeys", "in key_cache", OP.format("kv_write")),
    Bug("norm-without-eps", 3, "kernels:NormWithoutEps", "eps matters", OP.format("rms_norm")),
    Bug("norm-that-writes", 3, "kernels:NormThatWrites", "wrote to argument x", OP.format("rms_norm"), True),
    Bug("norm-in-float32", 3, "kernels:NormInFloat32", "float32, not .*bfloat16", OP.format("rms_norm")),
    Bug("interleaved-rope", 3, "kernels:InterleavedRope", "rope is wrong", OP.format("rope")),
    Bug("moe-without-last-choice", 3, "kernels:MoeWithoutLastChoice", "moe is wrong.*k=2", OP.format("moe")),
    Bug("bias-dropped", 3, "kernels:BiasDropped", "bias\\]", OP.format("linear")),
    Bug("linear-in-half", 3, "kernels:LinearInHalf", "float32: error", OP.format("linear")),
    Bug("gelu-for-silu", 3, "kernels:GeluForSilu", "silu_and_mul is wrong", OP.format("silu")),
    Bug("last-of-equals", 3, "kernels:LastOfEquals", "sample is wrong", SAMPLE),
    Bug("unseeded-sampler", 3, "kernels:UnseededSampler", "other bits the second time", "same_bits and sample"),
    Bug("one-more-of-top-k", 3, "kernels:OneMoreOfTopK", "sample is wrong", SAMPLE),
    Bug("sign-blind-penalties", 3, "kernels:SignBlindPenalties", "apply_penalties is wrong", OP.format("penalties")),
    Bug("thread-unsafe", 3, "kernels:ThreadUnsafe", "not thread-safe", "threads and rms_norm-float32", True),
    Bug("silent-fallback", 3, "kernels:SilentFallback", "silent fallback", "in_silence and paged", True),
    # -- 4: executor equivalences
    Bug("rng-by-batch-index", 4, "kernels:RngByBatchIndex", "noise must be keyed", "a_seed_gives"),
    Bug("block-table-row-swap", 4, "executors:BlockTableRowSwap", "differ from those of each", "batched", True),
    Bug("answers-by-row", 4, "executors:AnswersByRow", "gives? other tokens|differ", "chunked or preempted"),
    Bug("chunk-by-one", 4, "executors:ChunkByOne", "in chunks", "chunked_prompts"),
    Bug("preemption-loses-outputs", 4, "executors:PreemptionLosesOutputs", "preempted", "preempted"),
    Bug("prefix-wiped", 4, "executors:PrefixWiped", "prefix", "prefix", True),
    Bug("row-remembers-tenant", 4, "executors:RowRemembersTenant", "disturbed by the one before", "taken_again"),
    Bug("logprobs-in-bits", 4, "executors:LogprobsBaseTwo", "has logprob", "logprobs_are_the_references"),
    Bug("penalties-after-preemption", 4, "executors:PenaltiesAfterPreemption", "penalties count", "survive"),
    Bug("logit-bias-ignored", 4, "executors:LogitBiasIgnored", "logit_bias gives other tokens", "edited"),
    Bug("stale-step-in-flight", 4, "executors:StaleStepInFlight", "steps in flight", "overlapped"),
    # -- 5: programs and hooks
    Bug("stale-graph-input", 5, "programs:StaleGraphInput", "stale tokens|than eagerly", "program", True),
    Bug("rebuilds-programs", 5, "programs:RebuildsPrograms", "built after warm-up", "built"),
    Bug("hook-in-a-step", 5, "programs:HookInStep", "hooks are called in steps.*metrics", "hook", True),
    # -- 6: collectives
    Bug("last-rank-forgotten", 6, "programs:LastRankForgotten", "all_reduce is wrong on rank 2", "every_rank", True),
    Bug("gathers-backwards", 6, "programs:GatherBackwards", "all_gather is wrong", "every_rank"),
    Bug("scatters-one-shard", 6, "programs:ScatterSameShard", "reduce_scatter is wrong on rank 1", "every_rank"),
    Bug("collective-writes-input", 6, "programs:CollectiveWritesInput", "write to their input", "left_alone"),
    # -- 7: faults
    Bug("nan-hidden", 7, "executors:NaNHidden", "it is not reported", "finite", True),
    Bug("nan-blames-all", 7, "executors:NaNBlamesAll", "disturbs its neighbours", "finite"),
    Bug("leaks-when-stopped", 7, "executors:LeaksWhenStopped", "leaves memory behind", "closed"),
    Bug("out-of-memory-swallowed", 7, "memory:RaisesRawErrors", "must be raised as CapacityError", "cannot_fit"),
)
SOUND = (Bug("sound-buckets", 5, "programs:SoundBuckets", ""),)
"""Backends without a bug that reach tests which no other backend here does."""
