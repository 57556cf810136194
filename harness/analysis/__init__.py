"""Statistics and what follows from samples: contrasts, figures, rooflines, breakdown. No torch, no I/O."""
