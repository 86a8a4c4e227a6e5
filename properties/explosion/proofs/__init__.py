"""What follows without a search: closed forms, caps and their proofs."""
