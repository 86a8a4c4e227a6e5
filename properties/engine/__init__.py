"""The run of one law on one implementation: search, shrink, confirm, store, and compare with what is known."""
