"""What the user's training calls: it moves the levels from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autocompress.controller.parts import LevelPart


class CompressionScheduler:
    """Moves the level of each algorithm along its schedule.

    Args:
        parts: the algorithms that have a level.
        apply: called with the levels to be in force, by the algorithm's name.

    Attributes:
        current_epoch: index of the epoch that is being trained, from 0; -1 before the first.
        current_step: index of the iteration, from 0; -1 before the first.
        enabled: whether it still moves levels; not once a rate was set.
    """

    def __init__(self, parts: Sequence[LevelPart], apply: Callable[[Mapping[str, float]], None]) -> None:
        self._parts, self._apply = list(parts), apply
        self.current_epoch = self.current_step = -1
        self.enabled = True
        self._raised = {part.name: 0 for part in self._parts}

    def begin(self) -> None:
        """Put the levels of before the first epoch in force."""
        levels = {part.name: part.schedule.initial for part in self._parts}
        if any(levels.values()):
            self._apply(levels)

    def step(self, next_step: int | None = None) -> None:
        """Call before each iteration.

        Args:
            next_step: its index; one more than the last by default.
        """
        self.current_step = self.current_step + 1 if next_step is None else next_step

    def epoch_step(self, next_epoch: int | None = None) -> None:
        """Call before each epoch: its level is in force from now on.

        Args:
            next_epoch: its index; one more than the last by default.
        """
        self.current_epoch = self.current_epoch + 1 if next_epoch is None else next_epoch
        if self.enabled:
            self._apply({part.name: self._level(part) for part in self._parts})
            for part in self._parts:
                if part.schedule.freezes is not None and self.current_epoch >= part.schedule.freezes:
                    part.freeze()

    def levels_after(self, epochs: int) -> dict[str, float]:
        """The levels in force when so many epochs have been trained, where they follow from that alone."""
        return {
            part.name: part.schedule.level(epochs - 1) if epochs > 0 and not part.schedule.adaptive else part.level
            for part in self._parts
        }

    def is_finished(self) -> bool:
        """Whether all levels are at their targets, or were set."""
        return not self.enabled or all(part.level >= part.schedule.target - 1e-9 for part in self._parts)

    def get_state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "current_epoch": self.current_epoch,
            "current_step": self.current_step,
            "enabled": self.enabled,
            "raised": dict(self._raised),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `get_state` was asked."""
        self.current_epoch, self.current_step = int(state["current_epoch"]), int(state["current_step"])
        self.enabled, self._raised = bool(state["enabled"]), dict(state["raised"])

    def _level(self, part: LevelPart) -> float:
        if not part.schedule.adaptive:
            return part.schedule.level(self.current_epoch)
        if self.current_epoch > 0 and part.reached() and part.level < part.schedule.target:
            self._raised[part.name] += 1
        return part.schedule.level(self._raised[part.name])
