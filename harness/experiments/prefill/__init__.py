"""What does vLLM's paged KV cache cost a prefill?"""
