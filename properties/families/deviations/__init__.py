"""Deviations of families: of each the slips in its own steps, and dialects that are taken for it; listed in SLIPS."""
