"""Makes a tiny random Llama model and its tokenizer, in seconds and without fetching anything.

Run by the Python of an installed engine: `python tiny_model.py FOLDER`. Its answers are noise, but its tokens are
counted, its limit cuts and its time passes as with any other model.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def main(folder: Path) -> None:
    """Writes the model into `folder`."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=1024, special_tokens=["<s>", "</s>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    sources = sorted(Path(torch.__file__).parent.glob("*.py"))[:40]  # any local text trains a vocabulary
    tokenizer.train([str(source) for source in sources], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,  # head_dim 32 is the smallest that vLLM's CPU kernels take
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data[1] *= 1.5  # so that some answers end by themselves after some dozens of tokens
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
