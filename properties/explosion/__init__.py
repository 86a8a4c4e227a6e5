"""Minimal explosions: the smallest network of a family whose gain reaches a threshold, and why it is the smallest."""

from properties.explosion.files import FORMAT, ExplosionFileError, Replay, load, replay, save
from properties.explosion.picture import PictureError, draw
from properties.explosion.result import Explosion
from properties.explosion.search import find_minimal

__all__ = [
    "FORMAT",
    "Explosion",
    "ExplosionFileError",
    "PictureError",
    "Replay",
    "draw",
    "find_minimal",
    "load",
    "replay",
    "save",
]
