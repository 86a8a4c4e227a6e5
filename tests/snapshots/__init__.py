"""Messages that a user sees, compared exactly with the text files beside this one.

UPDATE_SNAPSHOTS=1 rewrites a file instead of comparing with it; read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent


def recorded(name: str, text: str, *places: Path) -> None:
    """The text is what the file `name` holds; each folder in `places` reads as FOLDER, so that no machine shows."""
    for place in places:
        text = text.replace(str(place), "FOLDER")
    text = text.rstrip("\n") + "\n"
    path = HERE / name
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        path.write_text(text)
    assert path.is_file(), f"there is no snapshot {name}; UPDATE_SNAPSHOTS=1 records it"
    assert text == path.read_text()
