"""Makes a tiny random Llama model in the format of llama.cpp, in a second and without fetching anything.

Run by the Python of an installed part: `python tiny_gguf.py FILE`. Its tokens are bytes and some pairs of letters; its
answers are random printable ASCII that never ends by itself.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

EMBEDDING, HIDDEN, BLOCKS, HEADS, CONTEXT = 64, 128, 2, 4, 512
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def byte_alphabet() -> list[str]:
    """The characters by which byte-level BPE writes the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    names = {byte: chr(byte) for byte in shown} | {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return [names[byte] for byte in range(256)]


def main(file: Path) -> None:
    """Writes the model."""
    letters = byte_alphabet()
    merges = [f"{first} {second}" for first in "aeiou" for second in "nrst"]
    tokens = ["<s>", "</s>", *letters, *(merge.replace(" ", "") for merge in merges)]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control, control, *([normal] * (len(tokens) - 2))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(7)

    def noise(*shape: int) -> np.ndarray:
        return random.normal(0, 0.5, shape).astype(np.float32)

    output = noise(len(tokens), EMBEDDING)
    for number, token in enumerate(tokens):
        if not (token.isascii() and token.isprintable()) or token in {"<s>", "</s>"}:
            output[number] = 0  # never the likeliest
    ones = np.ones(EMBEDDING, np.float32)
    writer.add_tensor("token_embd.weight", noise(len(tokens), EMBEDDING))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for block in range(BLOCKS):
        prefix = f"blk.{block}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{prefix}.{norm}.weight", ones)
        for square in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{prefix}.{square}.weight", noise(EMBEDDING, EMBEDDING))
        writer.add_tensor(f"{prefix}.ffn_gate.weight", noise(HIDDEN, EMBEDDING))
        writer.add_tensor(f"{prefix}.ffn_up.weight", noise(HIDDEN, EMBEDDING))
        writer.add_tensor(f"{prefix}.ffn_down.weight", noise(EMBEDDING, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
