"""How much time does a KV cache save a generation, token by token?"""
