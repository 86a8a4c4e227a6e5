"""The laws in a test file of your own: `pytest examples/test_mine.py`.

Every law and dtype is a test, so that -k, --deselect and lists of known failures work as for any other.
"""

from by_hand import Mine

from properties.conformance import conformance

test_laws = conformance(Mine, laws=("manifold.last-axis", "mixing.post"), dtypes=("float32",))
