"""What a failure is like, so that failures which nothing explains can be told apart.

| kind | |
|---|---|
| value | a number outside its bound, or a fact that does not hold |
| nan | what the target gave is not finite where it has to be |
| exception | the target raised inside its declared domain |
| contract | a shape, a dtype, a device, a number of calls |
| memory | an argument written, an output that changes later, a stale cache, memory never written, or too much |
| time | no answer: the call hung, or its process died |
| randomness | the same call does not give the same again |
| limit | what the target accepts less of than it declares: no law says so, a diagnosis does |
"""

from __future__ import annotations

from properties.core.judging import FailureKind as FailureKind
from properties.core.judging import LawBroken
from properties.core.law import Law


def kind_of(broken: LawBroken, law: Law) -> FailureKind:
    """The kind of a failure of a law."""
    if broken.kind == "value" and "deterministic" in law.declared:
        return "randomness"
    return broken.kind
