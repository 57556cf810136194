"""From results to the figures of summary.json."""
