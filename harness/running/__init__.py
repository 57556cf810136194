"""What goes on while a run is measured: its recorder and its sampling."""
