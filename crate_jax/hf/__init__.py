"""To and from PyTorch: export for Hugging Face transformers, and loading of what is there."""
