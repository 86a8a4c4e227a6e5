"""Fits of families: of each that needs more than its own fields, how they are read off matrices; listed in FITS."""
