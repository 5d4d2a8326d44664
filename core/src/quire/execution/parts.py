"""What the core's executor is made of, for an executor that a backend brings: the one module of it that is public.

A device whose bytes are no torch tensors, or whose shapes are static, needs an executor of its own, and no other model
code: the memory plan, the model, the packing of a step's inputs, the step functions and what rows ask for beyond a
token are the same. See `docs/adr/0008-a-foreign-executor-stands-on-the-cores-parts.md`.
"""

from quire.backend.defaults import TorchAllocator
from quire.execution.build import bind_step, build_model, executor_facts
from quire.execution.inputs import Sizes, StepBuffers, bucket_sizes, views
from quire.execution.memory import MemoryPlan, plan_memory
from quire.execution.programs import ProgramLimits, Programs
from quire.execution.rows import Rows, SamplingTables
from quire.execution.special import NO_EXTRAS, Extras, SpecialStep
from quire.execution.step import Sampled, StepFunctions, StepKernels
from quire.execution.torch_executor import PendingStep, read_tokens

__all__ = [
    "NO_EXTRAS",
    "Extras",
    "MemoryPlan",
    "PendingStep",
    "ProgramLimits",
    "Programs",
    "Rows",
    "Sampled",
    "SamplingTables",
    "Sizes",
    "SpecialStep",
    "StepBuffers",
    "StepFunctions",
    "StepKernels",
    "TorchAllocator",
    "bind_step",
    "bucket_sizes",
    "build_model",
    "executor_facts",
    "plan_memory",
    "read_tokens",
    "views",
]
