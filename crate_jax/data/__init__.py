"""Text to batches: sources, tokenizers, windows in a fixed order. Imports nothing above it."""
