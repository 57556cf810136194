"""What does a warm prefix cache save a prefill?"""
