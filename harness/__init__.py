"""Run a real prefill, keep its attention calls, run them again under other memory layouts."""
