"""A monitor of hyper-connections while somebody's torch model runs or trains: `Monitor`.

    with Monitor(model, path="gains.jsonl"):
        train(model)

Per layer and recorded pass one line of JSON with the measures of `explode`. Nothing of the model is changed: hooks
read the residual operator A (x' = A x + h_post^T F) and the streams x that enter, of a sample of tokens, on the device
where they are; one small transfer at the end of a pass brings the numbers over. What that costs is measured by
`python -m properties.explosion.overhead`.

A monitor never breaks what it watches. What goes wrong in the monitor itself (a full disk, an output that it does not
understand, a function of the user's that raises) is said once through the logger and counted in `Monitor.troubles`; the
model runs on. A number that could not be measured is null: of a pass in which a layer was missed there is no composite.
"""

from properties.explosion.monitor.columns import ROW_KEYS, SCHEMA
from properties.explosion.monitor.emissions import KNOWN, Emission, square
from properties.explosion.monitor.limits import limits_of
from properties.explosion.monitor.report import MonitorViolation
from properties.explosion.monitor.thresholds import Thresholds
from properties.explosion.monitor.watcher import Monitor

__all__ = [
    "KNOWN",
    "ROW_KEYS",
    "SCHEMA",
    "Emission",
    "Monitor",
    "MonitorViolation",
    "Thresholds",
    "limits_of",
    "square",
]
