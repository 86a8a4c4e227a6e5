"""Controls of families: of each its formula in another arithmetic; listed in CONTROLS."""
