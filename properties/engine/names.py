"""Names of files: unique by what they stand for, readable, and legal on every file system.

A name is what a person reads, and a digest of what tells one target from another. So two targets with one name, names
that differ in letters that a file system does not keep or in case alone, and long ones never share a file.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path

from properties.targets.trust import built_in

_MOST = 150
"""Bytes of the readable part: with digest and ending a name stays far below the 255 bytes of most file systems."""

_KEPT = "._@=+-"


def file_name(readable: str, *identity: object) -> str:
    """A name for a file (without its ending) or a folder, the same for the same arguments.

    Letters and digits of any script stay, everything else becomes one ``_``.
    """
    text = unicodedata.normalize("NFC", readable)
    kept = "".join(one if one.isalnum() or one in _KEPT else " " for one in text)
    short = "_".join(kept.split()).encode()[:_MOST].decode(errors="ignore").strip("._-")
    whole = "\0".join([readable, *map(str, identity)])
    return f"{short}_{hashlib.sha256(whole.encode(errors='surrogatepass')).hexdigest()[:10]}".lstrip("_")


def identity(target: str, folder: Path) -> str:
    """What tells a target from every other one whose files go into `folder`.

    The same words mean something else in another working folder, so that counts, seen from `folder`: moved together, or
    on another machine, both give the same names.
    """
    if built_in(target):
        return target
    try:
        seen: Path | str = os.path.relpath(Path.cwd(), folder)
    except FileNotFoundError:  # the working folder is gone
        seen = ""
    except ValueError:  # another drive
        seen = Path.cwd()
    return f"{target}\0{seen}"
