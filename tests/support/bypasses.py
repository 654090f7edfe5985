r"""A hundred ways around a limit of 100 tokens, each with what has to become of it.

Numbers are those of the families below; a way with several spellings has several entries. `CAPPED` reaches the upstream and is low enough for
every reader, `SAME` reaches it byte for byte, a refusal is (status, type) and reaches nothing, `GONE` is a client that left before it asked.
"""

import codecs
import gzip
import json
import zlib
from typing import NamedTuple

from tests.support.encodings import packed
from tests.support.readers import LIMITS

CHAT, COMPLETIONS, RESPONSES, MESSAGES = b"/v1/chat/completions", b"/v1/completions", b"/v1/responses", b"/v1/messages"
CAPPED, SAME, GONE = "capped", "same", "gone"
AMBIGUOUS, REJECTED, CONFLICT = (400, "ambiguous_body"), (400, "policy_rejected"), (400, "policy_conflict")
MALFORMED, TOO_LARGE, UNJUDGEABLE = (400, "malformed_request"), (413, "body_too_large"), (403, "policy_unjudgeable")
HTTP2 = (505, "http_version")

CAP = {"name": "cap", "do": "cap", "max_tokens": 100, "max_choices": 4, "when_absent": "insert"}
"""The rule that all of them try to get around."""
LARGEST_BODY_BYTES = 1 << 20
"""`limits.observed_body_bytes` of the proxy that they are sent through."""

BIG = 99999


class Bypass(NamedTuple):
    """One way around the rule."""

    number: int
    what: str
    expected: str | tuple[int, str]
    body: bytes = b""
    headers: tuple[bytes, ...] = ()
    path: bytes = CHAT
    method: bytes = b"POST"
    pieces: tuple[bytes, ...] = ()
    """The whole request as it is written, one piece after the other, where its framing is the point."""

    @property
    def wire(self) -> tuple[bytes, ...]:
        """What is written, in pieces."""
        return self.pieces or (framed(self.body, *self.headers, path=self.path, method=self.method),)


def framed(body: bytes, *headers: bytes, path: bytes = CHAT, method: bytes = b"POST") -> bytes:
    """A request with Content-Length."""
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: a", *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _head(*headers: bytes, path: bytes = CHAT) -> bytes:
    return b"\r\n".join((b"POST %b HTTP/1.1" % path, b"Host: a", *headers)) + b"\r\n\r\n"


def _chat(**members: object) -> bytes:
    return json.dumps({"model": "m", "messages": []} | members).encode()


def _raw(members: str) -> bytes:
    return f'{{"model":"m","messages":[],{members}}}'.encode()


def _nested(path: str, value: object) -> bytes:
    for step in reversed(path.split(".")):
        value = {step: value}
    assert isinstance(value, dict)
    return _chat(**value)


LARGE = _chat(max_tokens=BIG)
_FORM = b"model=m&max_tokens=99999"
_PART = (
    b'--x\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: application/json\r\n\r\n'
    + LARGE
    + b"\r\n--x--\r\n"
)

KEYS = [
    Bypass(1, "the limit twice, the large one last", AMBIGUOUS, _raw('"max_tokens":1,"max_tokens":99999')),
    Bypass(2, "the limit twice, the large one first", AMBIGUOUS, _raw('"max_tokens":99999,"max_tokens":1')),
    Bypass(2, "the limit twice, once as null", AMBIGUOUS, _raw('"max_tokens":99999,"max_tokens":null')),
    Bypass(3, "the limit twice, once spelled with an escape", AMBIGUOUS, _raw('"max\\u005ftokens":99999,"max_tokens":1')),
    Bypass(3, "the limit once, spelled with escapes", CAPPED, _raw('"\\u006dax_token\\u0073":99999')),
    Bypass(4, "a message with two equal names", SAME, _raw('"max_tokens":50,"x":{"max_tokens":1,"max_tokens":99999}')),
    Bypass(5, "another case", AMBIGUOUS, _raw('"Max_Tokens":99999')),
    Bypass(5, "another case beside the right one", AMBIGUOUS, _raw('"max_tokens":1,"MAX_TOKENS":99999')),
    Bypass(6, "a Kelvin sign for the k", AMBIGUOUS, _raw('"max_to\u212aens":99999')),
    Bypass(6, "a long s for the s", AMBIGUOUS, _raw('"max_token\u017f":99999')),
    Bypass(6, "fullwidth letters", AMBIGUOUS, _raw('"\uff4dax_tokens":99999')),
    Bypass(7, "a NUL at the end of the name", AMBIGUOUS, _raw('"max_tokens\\u0000":99999')),
    Bypass(7, "a NUL and more, which a reader of C strings cuts off", AMBIGUOUS, _raw('"max_tokens\\u0000x":99999')),
    Bypass(7, "a joiner in the name", AMBIGUOUS, _raw('"max\u200d_tokens":99999')),
    Bypass(7, "a space after the name", AMBIGUOUS, _raw('"max_tokens ":99999')),
    Bypass(7, "a lone surrogate after the name", AMBIGUOUS, _raw('"max_tokens\\ud800":99999')),
    Bypass(8, "camel case", AMBIGUOUS, _raw('"maxTokens":99999')),
    Bypass(8, "a hyphen", AMBIGUOUS, _raw('"max-tokens":99999')),
    Bypass(8, "a space", AMBIGUOUS, _raw('"max completion tokens":99999')),
    *(Bypass(9, f"the limit of another server: {path}", CAPPED, _nested(path, BIG)) for path in LIMITS),
    *(Bypass(9, f"both: {path}", CAPPED, _nested(path, BIG)[:-1] + b',"max_tokens":50}') for path in LIMITS[1:]),
    Bypass(9, "an object of limits twice", AMBIGUOUS, _raw('"options":{"num_predict":99999},"options":{}')),
    Bypass(9, "a limit twice in its object", AMBIGUOUS, _raw('"options":{"num_predict":1,"num_predict":99999}')),
    Bypass(9, "another case in an object", AMBIGUOUS, _raw('"options":{"Num_Predict":99999}')),
    Bypass(9, "another case of the object", AMBIGUOUS, _raw('"Options":{"num_predict":99999}')),
    Bypass(9, "another case of an object in an object", AMBIGUOUS, _raw('"extra_body":{"Options":{"num_predict":99999}}')),
    Bypass(9, "another case, two objects deep", AMBIGUOUS, _raw('"extra_body":{"options":{"numPredict":99999}}')),
    Bypass(9, "an object twice in an object", AMBIGUOUS, _raw('"extra_body":{"options":{"num_predict":99999},"options":{}}')),
    Bypass(9, "an object twice in an object, in another case inside", AMBIGUOUS, _raw('"extra_body":{"options":{"Num_Predict":99999},"options":{}}')),
    Bypass(9, "the object with the large limit first", AMBIGUOUS, _raw('"Options":{"num_predict":99999},"options":{}')),
    Bypass(9, "the member of another object's style", AMBIGUOUS, _raw('"generationConfig":{"max_output_tokens":99999}')),
    Bypass(9, "a list of objects, which no server reads", CAPPED, _raw('"options":[{"num_predict":99999}]')),
    Bypass(10, "both fields", CAPPED, _chat(max_tokens=BIG, max_completion_tokens=BIG)),
    Bypass(10, "both fields, one of them low", CAPPED, _chat(max_tokens=5, max_completion_tokens=BIG)),
    Bypass(11, "the field that this model does not read", CAPPED, _chat(model="o3", max_tokens=BIG)),
]  # fmt: skip

VALUES = [
    Bypass(12, "a number as text", AMBIGUOUS, _chat(max_tokens="99999")),
    Bypass(13, "a float without fraction", CAPPED, _raw('"max_tokens":99999.0')),
    Bypass(13, "a low float stays as it is", SAME, _raw('"max_tokens":64.0')),
    Bypass(14, "an exponent", CAPPED, _raw('"max_tokens":1e9')),
    Bypass(14, "an exponent with sign and capital", CAPPED, _raw('"max_tokens" : 9.9E+4 ')),
    Bypass(15, "a fraction", AMBIGUOUS, _raw('"max_tokens":100.5')),
    Bypass(16, "more than a float holds", AMBIGUOUS, _raw('"max_tokens":1E400')),
    Bypass(16, "NaN", AMBIGUOUS, _raw('"max_tokens":NaN')),
    Bypass(16, "Infinity", AMBIGUOUS, _raw('"max_tokens":Infinity')),
    Bypass(16, "NaN somewhere else", AMBIGUOUS, _raw('"max_tokens":99999,"temperature":NaN')),
    Bypass(17, "more than an integer of 64 bits holds", CAPPED, _raw('"max_tokens":100000000000000000000000000')),
    Bypass(18, "minus one", AMBIGUOUS, _chat(max_tokens=-1)),
    Bypass(18, "minus one as float", AMBIGUOUS, _raw('"max_tokens":-1.0')),
    Bypass(18, "zero", AMBIGUOUS, _chat(max_tokens=0)),
    Bypass(18, "minus zero", AMBIGUOUS, _raw('"max_tokens":-0')),
    Bypass(18, "minus one where it is unlimited", CAPPED, _chat(n_predict=-1)),
    Bypass(18, "minus two where it is unlimited", CAPPED, _raw('"options":{"num_predict":-2.0}')),
    Bypass(
        18, "zero beside an echo has one meaning", SAME, _chat(prompt="p", echo=True, max_tokens=0), (), COMPLETIONS
    ),
    Bypass(19, "true", AMBIGUOUS, _chat(max_tokens=True)),
    Bypass(20, "null", CAPPED, _chat(max_tokens=None)),
    Bypass(20, "null twice in other fields", CAPPED, _chat(max_tokens=None, max_completion_tokens=None)),
    Bypass(21, "no limit at all", CAPPED, _chat()),
    Bypass(21, "an empty object", CAPPED, b"{}"),
    Bypass(21, "an empty object with white space", CAPPED, b" \r\n{\t} "),
    Bypass(22, "a list", AMBIGUOUS, _chat(max_tokens=[BIG])),
    Bypass(22, "an object", AMBIGUOUS, _chat(max_tokens={"value": BIG})),
    Bypass(23, "a leading zero", AMBIGUOUS, _raw('"max_tokens":099999')),
    Bypass(23, "a plus", AMBIGUOUS, _raw('"max_tokens":+99999')),
    Bypass(23, "hexadecimal digits", AMBIGUOUS, _raw('"max_tokens":0xffff')),
    Bypass(23, "digits in groups", AMBIGUOUS, _raw('"max_tokens":99_999')),
    Bypass(23, "a point at the end", AMBIGUOUS, _raw('"max_tokens":99999.')),
    Bypass(23, "digits of another script", AMBIGUOUS, _raw('"max_tokens":\uff19\uff19\uff19')),
]

MULTIPLIERS = [
    Bypass(24, "a thousand answers", REJECTED, _chat(max_tokens=BIG, n=1000)),
    Bypass(24, "answers as text", AMBIGUOUS, _chat(max_tokens=50, n="1000")),
    Bypass(24, "answers twice", AMBIGUOUS, _raw('"max_tokens":50,"n":1,"n":1000')),
    Bypass(24, "answers in another case", AMBIGUOUS, _raw('"max_tokens":50,"N":1000')),
    Bypass(25, "a thousand candidates", REJECTED, _chat(prompt="p", max_tokens=BIG, best_of=1000), (), COMPLETIONS),
    Bypass(25, "a thousand candidates of a chat", REJECTED, _chat(max_tokens=BIG, best_of=1000)),
    Bypass(26, "a thousand prompts", REJECTED, _chat(prompt=["p"] * 1000, max_tokens=BIG), (), COMPLETIONS),
    Bypass(26, "a prompt twice", AMBIGUOUS, b'{"prompt":"p","prompt":["p","p","p","p","p"],"max_tokens":50}', (), COMPLETIONS),
    Bypass(27, "prompts times answers", REJECTED, _chat(prompt=["p"] * 3, n=2, max_tokens=BIG), (), COMPLETIONS),
    Bypass(28, "a least length above the cap", CAPPED, _chat(max_tokens=BIG, min_tokens=5000)),
    Bypass(28, "a least length and no limit", CAPPED, _chat(min_tokens=5000)),
    Bypass(28, "a least length in an object", CAPPED, _chat(max_tokens=BIG, parameters={"min_new_tokens": 5000})),
    Bypass(29, "no end of sequence", CAPPED, _chat(max_tokens=BIG, ignore_eos=True, use_beam_search=True)),
    Bypass(30, "many calls of tools", CAPPED, _chat(input="i", max_output_tokens=BIG, max_tool_calls=1000), (), RESPONSES),
    Bypass(31, "a budget of thinking above the cap", CONFLICT, _chat(max_tokens=BIG, thinking={"type": "enabled", "budget_tokens": 5000}), (), MESSAGES),
    Bypass(31, "much effort", CAPPED, _chat(max_completion_tokens=BIG, reasoning_effort="xhigh")),
    Bypass(32, "a volume of log probabilities", CAPPED, _chat(max_tokens=BIG, logprobs=True, top_logprobs=20)),
]  # fmt: skip

_RAW_DEFLATE = zlib.compressobj(wbits=-15)
_WHITE = b'{"model":"m",' + b" " * (2 * LARGEST_BODY_BYTES)

ENCODINGS = [
    Bypass(33, "gzip", CAPPED, packed("gzip", LARGE), (b"Content-Encoding: gzip",)),
    Bypass(33, "gzip that is low enough", SAME, packed("gzip", _chat(max_tokens=50)), (b"Content-Encoding: gzip",)),
    Bypass(33, "gzip around two limits", AMBIGUOUS, packed("gzip", KEYS[0].body), (b"Content-Encoding: gzip",)),
    Bypass(34, "deflate", CAPPED, packed("deflate", LARGE), (b"Content-Encoding: deflate",)),
    Bypass(34, "raw deflate", CAPPED, _RAW_DEFLATE.compress(LARGE) + _RAW_DEFLATE.flush(), (b"Content-Encoding: deflate",)),
    Bypass(35, "br", CAPPED, packed("br", LARGE), (b"Content-Encoding: br",)),
    Bypass(35, "zstd", CAPPED, packed("zstd", LARGE), (b"Content-Encoding: zstd",)),
    Bypass(36, "gzip in gzip", CAPPED, packed("gzip, gzip", LARGE), (b"Content-Encoding: gzip, gzip",)),
    Bypass(36, "gzip in gzip, in two lines", CAPPED, packed("gzip, gzip", LARGE), (b"Content-Encoding: gzip",) * 2),
    Bypass(36, "gzip in gzip, said once", AMBIGUOUS, packed("gzip, gzip", LARGE), (b"Content-Encoding: gzip",)),
    Bypass(37, "two members of gzip", CAPPED, packed("gzip", LARGE[:9]) + packed("gzip", LARGE[9:]), (b"Content-Encoding: gzip",)),
    Bypass(37, "a whole document in each member", AMBIGUOUS, packed("gzip", _chat(max_tokens=1)) + packed("gzip", LARGE), (b"Content-Encoding: gzip",)),
    Bypass(38, "gzip that is cut off", AMBIGUOUS, packed("gzip", LARGE)[:-3], (b"Content-Encoding: gzip",)),
    Bypass(38, "gzip with a wrong sum", AMBIGUOUS, packed("gzip", LARGE)[:-8] + b"\0" * 8, (b"Content-Encoding: gzip",)),
    Bypass(38, "gzip that is none", AMBIGUOUS, LARGE, (b"Content-Encoding: gzip",)),
    Bypass(39, "a bomb", AMBIGUOUS, gzip.compress(_WHITE * 8 + b'"max_tokens":99999}', mtime=0), (b"Content-Encoding: gzip",)),
    Bypass(40, "names of codings in other letters", CAPPED, packed("gzip", LARGE), (b"Content-Encoding: GZIP, identity",)),
    Bypass(40, "identity", CAPPED, LARGE, (b"Content-Encoding: identity",)),
    Bypass(41, "a coding that nobody knows", AMBIGUOUS, LARGE, (b"Content-Encoding: rot13",)),
    Bypass(41, "three codings", AMBIGUOUS, packed("gzip, gzip, gzip", LARGE), (b"Content-Encoding: gzip, gzip, gzip",)),
    *(Bypass(42, name, AMBIGUOUS, LARGE.decode().encode(name)) for name in ("utf-16", "utf-16-le", "utf-16-be")),
    *(Bypass(43, name, AMBIGUOUS, LARGE.decode().encode(name)) for name in ("utf-32", "utf-32-le", "utf-32-be")),
    Bypass(44, "a byte order mark", AMBIGUOUS, codecs.BOM_UTF8 + LARGE),
    Bypass(45, "utf-7", AMBIGUOUS, LARGE.replace(b"max_", b"+AG0-ax_"), (b"Content-Type: application/json; charset=utf-7",)),
    Bypass(45, "utf-16 that is utf-8", AMBIGUOUS, LARGE, (b'Content-Type: application/json; charset="UTF-16"',)),
    Bypass(45, "latin1", CAPPED, LARGE, (b"Content-Type: application/json; charset=latin1",)),
    Bypass(45, "latin1 that is no utf-8", AMBIGUOUS, _raw('"user":"\xe9","max_tokens":99999').decode().encode("latin-1"), (b"Content-Type: application/json; charset=latin1",)),
    Bypass(46, "a byte that is no utf-8", AMBIGUOUS, LARGE[:-1] + b',"user":"\xff"}'),
    Bypass(46, "a byte that is no utf-8 in the name", AMBIGUOUS, LARGE.replace(b"max_tokens", b"max_tokens\xff")),
    Bypass(46, "surrogates in utf-8", AMBIGUOUS, LARGE[:-1] + b',"user":"\xed\xa0\x80"}'),
    Bypass(46, "surrogates in escapes are valid", CAPPED, LARGE[:-1] + b',"user":"\\ud83d"}'),
    Bypass(47, "an overlong m", AMBIGUOUS, LARGE.replace(b"max_tokens", b"\xc1\xadax_tokens")),
    Bypass(48, "a comment", AMBIGUOUS, LARGE.replace(b'"max', b'/* "max_tokens":1 */"max')),
    Bypass(48, "a comma too many", AMBIGUOUS, LARGE[:-1] + b",}"),
    Bypass(48, "single quotes", AMBIGUOUS, LARGE.replace(b'"', b"'")),
    Bypass(48, "names without quotes", AMBIGUOUS, LARGE.replace(b'"max_tokens"', b"max_tokens")),
    Bypass(48, "a raw newline in a text", AMBIGUOUS, LARGE[:-1] + b',"user":"a\nb"}'),
    Bypass(49, "two documents", AMBIGUOUS, _chat(max_tokens=1) + LARGE),
    Bypass(49, "two lines", AMBIGUOUS, _chat(max_tokens=1) + b"\n" + LARGE + b"\n"),
    Bypass(49, "something after the document", AMBIGUOUS, LARGE + b"\0"),
    Bypass(50, "a list at the top", AMBIGUOUS, b"[" + LARGE + b"]"),
    Bypass(50, "text at the top", AMBIGUOUS, json.dumps(LARGE.decode()).encode()),
    Bypass(50, "nothing", AMBIGUOUS),
    Bypass(51, "very deep", AMBIGUOUS, LARGE[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    Bypass(52, "mostly white space", TOO_LARGE, _WHITE + b'"max_tokens":99999}'),
    Bypass(52, "mostly white space, in chunks", TOO_LARGE, pieces=(
        _head(b"Transfer-Encoding: chunked"),
        *(b"%x\r\n%b\r\n" % (len(part), part) for part in (_WHITE[at : at + 65536] for at in range(0, len(_WHITE), 65536))),
    )),
    Bypass(53, "the model twice", AMBIGUOUS, _raw('"model":"x","max_tokens":99999')),
    Bypass(53, "stream twice", AMBIGUOUS, _raw('"stream":false,"max_tokens":99999,"stream":true')),
    Bypass(53, "messages twice, which no rule judges", CAPPED, _raw('"messages":[],"max_tokens":99999')),
]  # fmt: skip

CONTENT_TYPES = [
    Bypass(54, "no content type", CAPPED, _chat(max_tokens=BIG, user="u")),
    Bypass(55, "text", CAPPED, LARGE, (b"Content-Type: text/plain",)),
    Bypass(56, "a form by its type alone", CAPPED, LARGE, (b"Content-Type: application/x-www-form-urlencoded",)),
    Bypass(56, "a form", AMBIGUOUS, _FORM, (b"Content-Type: application/x-www-form-urlencoded",)),
    Bypass(57, "parts", AMBIGUOUS, _PART, (b"Content-Type: multipart/form-data; boundary=x",)),
    Bypass(58, "a charset", CAPPED, LARGE, (b"Content-Type: application/json;charset=UTF-8",)),
    Bypass(58, "a charset that is text", CAPPED, LARGE, (b"Content-Type: application/json; x=charset",)),
    Bypass(59, "two content types", CAPPED, LARGE, (b"Content-Type: text/plain", b"Content-Type: application/json")),
    Bypass(59, "two charsets", AMBIGUOUS, LARGE, (b"Content-Type: a/b;charset=utf-16", b"Content-Type: a/b;charset=utf-8")),
    Bypass(60, "json of another kind", CAPPED, LARGE, (b"Content-Type: application/vnd.api+json",)),
]  # fmt: skip

_BYTES = b"".join(b"1\r\n%c\r\n" % byte for byte in LARGE)
FRAMING = [
    Bypass(61, "a chunk for each byte", CAPPED, LARGE, pieces=(_head(b"Transfer-Encoding: chunked") + _BYTES + b"0\r\n\r\n",)),
    Bypass(61, "extensions of chunks", CAPPED, LARGE, pieces=(_head(b"Transfer-Encoding: chunked") + b'%x;max_tokens="1"\r\n%b\r\n0\r\n\r\n' % (len(LARGE), LARGE),)),
    Bypass(62, "trailers", CAPPED, LARGE, pieces=(_head(b"Transfer-Encoding: chunked", b"Trailer: Content-Encoding") + _BYTES + b"0\r\nContent-Encoding: br\r\nmax_tokens: 1\r\n\r\n",)),
    Bypass(63, "a length and chunks", MALFORMED, pieces=(_head(b"Content-Length: 6", b"Transfer-Encoding: chunked") + _BYTES + b"0\r\n\r\n",)),
    Bypass(63, "two lengths", MALFORMED, pieces=(_head(b"Content-Length: 2", b"Content-Length: %d" % len(LARGE)) + LARGE,)),
    Bypass(63, "chunks spelled otherwise", MALFORMED, pieces=(_head(b"Content-Length: %d" % len(LARGE), b"Transfer_Encoding: chunked") + LARGE,)),
    Bypass(63, "chunks in a coding", MALFORMED, pieces=(_head(b"Transfer-Encoding: gzip, chunked") + _BYTES + b"0\r\n\r\n",)),
    Bypass(64, "a client that waits to be asked", CAPPED, LARGE, pieces=(_head(b"Expect: 100-continue", b"Content-Length: %d" % len(LARGE)), LARGE)),
    Bypass(65, "a slow body", CAPPED, LARGE, pieces=(_head(b"Content-Length: %d" % len(LARGE)), *(LARGE[at : at + 1] for at in range(len(LARGE))))),
    Bypass(66, "a client that leaves in the middle", GONE, pieces=(_head(b"Content-Length: %d" % len(LARGE)) + LARGE[:-1],)),
]  # fmt: skip

PATHS = [
    *(
        Bypass(number, f"the path {path.decode()}", expected, LARGE, (), path)
        for number, path, expected in (
            (67, b"//v1/chat/completions", MALFORMED),
            (68, b"/v1//chat/completions", MALFORMED),
            (69, b"/v1/./chat/completions", MALFORMED),
            (70, b"/x/../v1/chat/completions", MALFORMED),
            (71, b"/v1/chat%2fcompletions", MALFORMED),
            (71, b"/v1/chat/%63ompletions", MALFORMED),
            (72, b"/x/%2e%2e/v1/chat/completions", MALFORMED),
            (73, b"/v1/chat%252fcompletions", MALFORMED),
            (73, b"/v1/chat%25252fcompletions", MALFORMED),
            (74, b"/v1/chat/completions/", MALFORMED),
            (75, b"/v1/chat/completions;x=y", MALFORMED),
            (75, b"/v1;x/chat/completions", MALFORMED),
            (76, b"/v1/Chat/Completions", MALFORMED),
            (76, b"/V1/chat/completions", CAPPED),
            (77, b"/v1/chat/completions?", CAPPED),
            (77, b"/v1/chat/completions?max_tokens=1&x=/v1/models", CAPPED),
            (77, b"/v1/chat/completions%3fx", MALFORMED),
            (77, b"/v1/chat/completions%23x", MALFORMED),
            (77, b"/v1/chat/completions#x", MALFORMED),
            (78, b"/openai/v1/chat/completions", CAPPED),
            (78, b"/v1/v1/chat/completions", CAPPED),
            (79, b"http://elsewhere.example/v1/chat/completions", CAPPED),
            (79, b"https://u:p@elsewhere.example:1/v1/chat/completions", CAPPED),
            (80, b"/v1\\chat\\completions", MALFORMED),
            (80, b"/v1%5cchat/completions", MALFORMED),
            (81, b"/v1/chat/completions%00", MALFORMED),
            (81, b"/v1/chat%00/completions", MALFORMED),
            (81, b"/v1/chat/completions%20", MALFORMED),
            (85, b"/openai/deployments/d-1/chat/completions?api-version=2024-10-21", CAPPED),
            (85, b"/openai/deployments/a%2fb/chat/completions?api-version=2024-10-21", MALFORMED),
        )
    ),
    *(
        Bypass(82, f"{header.decode()} on another path", MALFORMED, LARGE, (header + b": /v1/chat/completions",), b"/v1/embeddings")
        for header in (b"X-Original-URL", b"X-Rewrite-URL", b"X-Forwarded-Uri")
    ),
    Bypass(82, "two lines of a header that replaces the path", MALFORMED, LARGE, (b"X-Original-URL: /v1/chat/completions", b"X-Original-URL: /x"), b"/v1/embeddings"),
    Bypass(82, "a header that replaces the path beside another doubt", AMBIGUOUS, LARGE, (b"Content-Type: a/b;charset=utf-16", b"X-Original-URL: /v1/messages")),
    *(
        Bypass(82, f"{header.decode()} on a PUT", MALFORMED, LARGE, (header + b": POST",), method=b"PUT")
        for header in (b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override")
    ),
    Bypass(83, "PUT, to which no server answers", SAME, LARGE, method=b"PUT"),
    Bypass(83, "PATCH, to which no server answers", SAME, LARGE, method=b"PATCH"),
    Bypass(84, "GET with a body, to which no server answers", SAME, LARGE, method=b"GET"),
]  # fmt: skip

_SOCKET = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


def _socket(path: bytes) -> tuple[bytes, ...]:
    return (b"\r\n".join((b"GET %b HTTP/1.1" % path, b"Host: a", *_SOCKET)) + b"\r\n\r\n",)


ENDPOINTS = [
    Bypass(86, "responses", CAPPED, _chat(input="i", max_output_tokens=BIG), (), RESPONSES),
    Bypass(86, "responses with another's field", CAPPED, _chat(input="i", max_tokens=BIG), (), RESPONSES),
    Bypass(87, "completions", CAPPED, _chat(prompt="p", max_tokens=BIG), (), COMPLETIONS),
    Bypass(87, "completions without a limit, which is 16", SAME, _chat(prompt="p"), (), COMPLETIONS),
    Bypass(88, "a run of an assistant", SAME, _chat(max_completion_tokens=BIG), (), b"/v1/threads/t1/runs"),
    Bypass(89, "a session in real time", SAME, _chat(max_response_output_tokens="inf"), (), b"/v1/realtime/sessions"),
    Bypass(89, "a call in real time", SAME, LARGE, (), b"/v1/realtime/calls"),
    Bypass(89, "a websocket in real time", UNJUDGEABLE, path=b"/v1/realtime", pieces=_socket(b"/v1/realtime?model=m")),
    Bypass(89, "a websocket in real time, spelled otherwise", UNJUDGEABLE, path=b"/v1/realtime", pieces=_socket(b"/v1//Realtime/")),
    Bypass(89, "a websocket of responses", UNJUDGEABLE, path=RESPONSES, pieces=_socket(b"/v1/responses")),
    Bypass(90, "a batch", SAME, b'{"input_file_id":"f"}', (), b"/v1/batches"),
    Bypass(90, "a file of requests", SAME, LARGE + b"\n", (), b"/v1/files"),
    Bypass(91, "a run of an evaluation", SAME, b'{"max_completions_tokens":99999}', (), b"/v1/evals/e1/runs"),
    Bypass(92, "the compaction of a response", SAME, _chat(input="i"), (), b"/v1/responses/compact"),
    Bypass(93, "a response in the background", CAPPED, _chat(previous_response_id="r", background=True), (), RESPONSES),
    Bypass(94, "messages", CAPPED, _chat(max_tokens=BIG), (), MESSAGES),
    Bypass(95, "Ollama's own endpoint", SAME, _chat(options={"num_predict": -1}), (), b"/api/chat"),
    Bypass(95, "Ollama's options in a chat", CAPPED, _chat(options={"num_predict": -1}, max_tokens=50)),
    Bypass(96, "embeddings", SAME, _chat(input="i"), (), b"/v1/embeddings"),
    Bypass(97, "vLLM's own endpoint", SAME, _chat(sampling_params={"max_tokens": BIG}), (), b"/inference/v1/generate"),
    Bypass(98, "the preface of HTTP/2", HTTP2, pieces=(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",)),
    Bypass(98, "an upgrade to HTTP/2", CAPPED, LARGE, (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA")),
    Bypass(98, "a POST that asks for a websocket", CAPPED, LARGE, _SOCKET),
    Bypass(99, "a second request behind the first", CAPPED, LARGE, pieces=(framed(_chat(max_tokens=1)) + framed(LARGE),)),
    Bypass(99, "a second request with another head behind the first", CAPPED, LARGE, pieces=(framed(_chat(max_tokens=1)) + framed(LARGE, b"X: 1"),)),
    Bypass(100, "a stream that counts nothing", CAPPED, _chat(max_tokens=BIG, stream=True, stream_options={"include_usage": False})),
    Bypass(100, "a stream as text", AMBIGUOUS, _chat(max_tokens=BIG, stream="true")),
    Bypass(100, "a stream as number", AMBIGUOUS, _chat(max_tokens=BIG, stream=1)),
]  # fmt: skip

BYPASSES = (*KEYS, *VALUES, *MULTIPLIERS, *ENCODINGS, *CONTENT_TYPES, *FRAMING, *PATHS, *ENDPOINTS)
