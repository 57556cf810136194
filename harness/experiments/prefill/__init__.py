"""How much does vLLM's paged KV cache cost a prefill?"""
