"""Somebody's model (family model): where its residual blocks are, and which inputs make it grow."""
