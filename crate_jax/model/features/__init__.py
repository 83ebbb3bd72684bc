"""What happens to each token by itself: ISTA (CRATE) and the MLPs (GPT-2)."""
