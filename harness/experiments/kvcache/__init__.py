"""What does a KV cache save a generation, token by token?"""
