"""During a run: its recorder and its sampling."""
