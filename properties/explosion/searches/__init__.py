"""How the smallest is searched: depth and streams, logits and entries, one file a way."""
