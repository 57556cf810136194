"""The study: four questions about the paged KV cache, answered from raw runs in docs/runs by docs/study."""
