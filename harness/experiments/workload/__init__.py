"""The experiment `workload`: a whole work of many requests, in steps that vLLM's scheduler composes."""
