"""Minimal explosions: the smallest network of a family whose gain reaches a threshold, and why it is the smallest."""

from properties.explosion.atlas import Atlas, atlas
from properties.explosion.critical import CriticalRates, critical_rates
from properties.explosion.files import FORMAT, ExplosionFileError, Replay, load, replay, save
from properties.explosion.monitor import Monitor
from properties.explosion.pictures.explosion import PictureError, draw
from properties.explosion.result import Explosion
from properties.explosion.search import find_minimal

__all__ = [
    "FORMAT",
    "Atlas",
    "CriticalRates",
    "Explosion",
    "ExplosionFileError",
    "Monitor",
    "PictureError",
    "Replay",
    "atlas",
    "critical_rates",
    "draw",
    "find_minimal",
    "load",
    "replay",
    "save",
]
