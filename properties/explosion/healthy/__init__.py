"""Healthy models, and how near they come to what `Monitor` warns of."""
