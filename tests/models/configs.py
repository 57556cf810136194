"""What the config.json of two small models holds."""

from __future__ import annotations

LLAMA = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
TINY_GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 50, "n_positions": 16,
    "n_embd": 8, "n_layer": 1, "n_head": 2, "bos_token_id": 49, "eos_token_id": 49,
}  # fmt: skip
