"""What a probe may spend: requests and tokens, held before they are asked for and given back when they did not come.

Layer: lab; pure.
"""

from dataclasses import dataclass

__all__ = ["Budget"]


@dataclass(slots=True)
class Budget:
    """A budget of one probe. A request costs its input and at most its limit."""

    requests: int
    tokens: int
    input_tokens: int
    """Most that the input of one request can cost."""
    spent_requests: int = 0
    spent_tokens: int = 0
    held_requests: int = 0
    held_tokens: int = 0

    def cost_tokens(self, max_tokens: int) -> int:
        """Most that a request with this limit can cost."""
        return self.input_tokens + max_tokens

    def hold(self, limits: tuple[int, ...]) -> bool:
        """Set aside what requests with these limits can cost; False, and nothing is set aside, when that is too much."""
        tokens = sum(map(self.cost_tokens, limits))
        if (
            self.spent_requests + self.held_requests + len(limits) > self.requests
            or self.spent_tokens + self.held_tokens + tokens > self.tokens
        ):
            return False
        self.held_requests += len(limits)
        self.held_tokens += tokens
        return True

    def spend(self, held_tokens: int, tokens: int | None) -> None:
        """One held request is over.

        Args:
            held_tokens: What was set aside for it.
            tokens: What it cost; None when nobody knows, and then it cost all that was set aside.
        """
        self.held_requests -= 1
        self.held_tokens -= held_tokens
        self.spent_requests += 1
        self.spent_tokens += held_tokens if tokens is None else tokens

    def give_back(self, held_tokens: int) -> None:
        """One held request is not made at all."""
        self.held_requests -= 1
        self.held_tokens -= held_tokens
