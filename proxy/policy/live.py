"""What workers learn while they run and a decision may depend on.

Layer: policy. Pure data, replaced as a whole.

Deadlines need laws and disarming needs the state of each rule; this version has neither, so the value is empty and only
its place in `decide`'s signature is fixed.
"""

from dataclasses import dataclass

__all__ = ["Live"]


@dataclass(frozen=True, slots=True)
class Live:
    """Live state that the recorder sends to workers; empty in this version."""
