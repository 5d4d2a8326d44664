"""The executor interface, where the engine meets it. The types live in the contract."""

from quire.backend.contract import Executor, ExecutorContext, ExecutorFacts

__all__ = ["Executor", "ExecutorContext", "ExecutorFacts"]
