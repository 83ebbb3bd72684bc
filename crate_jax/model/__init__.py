"""What CRATE is: embedding, a scan of blocks (mixing, then features), head."""
