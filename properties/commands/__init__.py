"""What the command line does beyond parsing it: verify, replay, kill, seeds, bench, conformance."""
