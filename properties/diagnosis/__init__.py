"""Diagnosis: which hyper-connections is this, and what is wrong with it?"""

from properties.diagnosis.command import identify_command
from properties.diagnosis.diagnose import NoVerdict, identify
from properties.diagnosis.identification import Identification

__all__ = ["Identification", "NoVerdict", "identify", "identify_command"]
