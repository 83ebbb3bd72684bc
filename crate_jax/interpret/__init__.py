"""Looking into a trained network: does it follow its principle, what do its neurons mean."""
