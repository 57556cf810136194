"""How long does moving a request's KV cache take, by layout and by way of copying?"""
