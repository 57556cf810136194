"""What to start vLLM with for a given work: changes tried in real engines, one at a time and together."""
