"""How an implementation is found and called: the grammar of TARGET, adapters, other processes, published packages."""
