"""Run one trial, in its own process or in this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.trial.run import run_trial

__all__ = ["run_trial"]


def __getattr__(name: str) -> Any:
    if name == "run_trial":  # lazy: it imports torch, and the launcher needs only keys and children from here
        from autocompress.trial.run import run_trial

        return run_trial
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
