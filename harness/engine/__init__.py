"""Models that run: the prefill-only engine, its arms and ranks; engines that generate or are processes."""
