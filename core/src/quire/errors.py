"""Every error that Quire raises on purpose.

::

    QuireError
    ├── ConfigError            a setting is wrong, or wrong for this model or backend
    ├── BackendError           no backend, two that tie, one that is broken, one that lies
    │   └── KernelError        no kernel serves an op; the reasons are listed
    ├── ModelError             the model folder cannot be used: architecture, shard, dtype, NaN
    ├── RequestError           this request cannot be served; others go on
    │   ├── QueueFullError     back-pressure: try again later
    │   └── RequestAborted     the caller, a deadline or a shutdown ended it
    ├── CapacityError          not enough memory for what was asked; says how much is missing
    ├── RecordingError         a file is not a recording that can be replayed
    └── EngineDeadError        the engine stopped; carries the cause

Message form: what happened, with which value; what is supported; what to type next.
"""

from __future__ import annotations


class QuireError(Exception):
    """Base of all of Quire's own errors."""


class ConfigError(QuireError, ValueError):
    """A setting is wrong, or wrong for this model or backend."""


class BackendError(QuireError, RuntimeError):
    """A backend cannot be found, chosen or opened."""


class KernelError(BackendError):
    """No registered kernel serves an op as asked."""


class ModelError(QuireError, ValueError):
    """The model's files cannot be used."""


class RequestError(QuireError, ValueError):
    """One request cannot be served. `param` names the offending field, where there is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class QueueFullError(RequestError):
    """Too many requests or tokens wait already."""


class RequestAborted(RequestError):
    """The request was ended before it finished."""


class CapacityError(QuireError, RuntimeError):
    """Memory is short."""


class RecordingError(QuireError, ValueError):
    """A file is not a recording that can be replayed."""


class EngineDeadError(QuireError, RuntimeError):
    """The engine loop stopped; `__cause__` says why."""
