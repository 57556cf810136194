"""Charts as data (`spec`), drawn on the page (`svg`) and into plots/ (`mpl`)."""
