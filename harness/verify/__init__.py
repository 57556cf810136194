"""Stock vLLM against the plugin of `harness/plugin/`: are a model's answers the same, and what is saved?"""
