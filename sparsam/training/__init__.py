"""Training: one plain loop, what a split looks like to it, and the stages of token methods."""
