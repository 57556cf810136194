"""Which of vLLM's attention backends is the fastest for which batch size and length?"""
