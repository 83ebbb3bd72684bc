"""How tokens exchange information: MSSA (CRATE) and multi-head attention (GPT-2)."""
