"""What the simulated provider would send, without a socket and without waiting."""

from typing import Any

import orjson

from proxy.lab.answers import draw_answers
from proxy.lab.chat_request import read_request
from proxy.lab.endpoints import ENDPOINTS, AnySpelling


class Spelled:
    """One answer."""

    def __init__(self, spelling: AnySpelling) -> None:
        self.spelling = spelling

    def body(self) -> Any:
        """The answer that is not streamed, parsed."""
        return orjson.loads(self.spelling.body())


def spelled(path: str, **members: Any) -> Spelled:
    """The answer to a request of the small model with these members."""
    (endpoint,) = (endpoint for endpoint in ENDPOINTS if endpoint.path == path)
    body = orjson.dumps({"model": "sim-small"} | members)
    request = read_request(body, any_model=False, chat=endpoint.chat)
    answers = draw_answers(request, median_tokens=10, sigma=0.5, seed=1)
    return Spelled(endpoint.spelling("id", 1, request, answers))


def streamed(answer: Spelled) -> list[Any]:
    """The parsed data of every event of an answer, `[DONE]` as it is."""
    spelling = answer.spelling
    steps = range(max(each.tokens for each in spelling.answers) + 1)
    stream = spelling.first_event() + b"".join(map(spelling.step_events, steps)) + spelling.last_events()
    found = [event.partition(b"data: ")[2].decode() for event in stream.split(b"\n\n") if event]
    return [item if item == "[DONE]" else orjson.loads(item) for item in found]
