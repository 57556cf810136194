"""How much time does a warm prefix cache save a prefill?"""
