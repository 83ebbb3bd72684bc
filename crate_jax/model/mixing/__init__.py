"""How tokens exchange information: MSSA (CRATE), multi-head attention (GPT-2), TSSA (ToST)."""
