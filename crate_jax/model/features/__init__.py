"""What happens to each token by itself: ISTA (CRATE) and the ReLU MLP (GPT-2)."""
