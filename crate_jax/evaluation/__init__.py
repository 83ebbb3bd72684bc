"""How good a model is: loss on a fixed text, and n-gram reference lines on the same tokens."""
