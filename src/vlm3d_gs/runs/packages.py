"""The packages that a result was made with, all of them: who learns of a hole in one later can tell what it touched."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import distributions
from urllib.parse import quote

FIELD = re.compile(r"^(Name|Version):[ \t]*(\S+)[ \t]*\r?$", re.MULTILINE)
"""A line of a package's record, core metadata of the Python Packaging User Guide."""


@cache
def packages() -> list[dict[str, str]]:
    """Return name, version and package URL (purl, as SBOMs have it) of every installed package, by name.

    Of one that is found twice the first counts, as for imports. Packages with broken records are left out. Read once a
    process.
    """
    found: dict[str, dict[str, str]] = {}
    for item in distributions():
        # `item.metadata` parses whole descriptions as a mail: five times the work for a hundred packages.
        record = item.read_text("METADATA") or item.read_text("PKG-INFO") or ""
        fields = dict(FIELD.findall(re.split(r"\n\s*\n", record, maxsplit=1)[0]))
        name, version = fields.get("Name"), fields.get("Version")
        if not name or not version:
            continue

        key = name.lower().replace("_", "-")
        purl = f"pkg:pypi/{quote(key)}@{quote(version)}"
        found.setdefault(key, {"name": name, "version": version, "purl": purl})
    return [found[key] for key in sorted(found)]
