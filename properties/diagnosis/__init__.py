"""Diagnosis: which hyper-connections is this, and what is wrong with it?"""

from properties.diagnosis.command import identify_command
from properties.diagnosis.failure import explain_failure
from properties.diagnosis.identification import Identification, identify

__all__ = ["Identification", "explain_failure", "identify", "identify_command"]
