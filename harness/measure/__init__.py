"""What a step costs: timers, interleaved sampling, clocks, memory, and profiles of its kernels."""
