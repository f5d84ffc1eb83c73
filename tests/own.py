"""The techniques of this package, by the folder that they stand in."""

from autocompress.techniques import Technique, registry


def own_techniques(family: str) -> list[type[Technique]]:
    """Those of one folder, so that each family's contract runs in a process of its own."""
    return [kind for kind in registry().values() if kind.__module__.startswith(f"autocompress.techniques.{family}.")]
