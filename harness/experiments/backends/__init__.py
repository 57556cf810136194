"""Which of vLLM's attention backends is fastest at which batch size and length?"""
