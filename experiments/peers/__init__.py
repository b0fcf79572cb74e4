"""Other projects' programs, made to run beside ours in one process."""

import importlib.metadata

PACKAGES = ("numpy", "scikit-learn", "torch", "openTSNE", "umap-learn", "flashbax")


def versions() -> dict[str, str]:
    """Return the versions of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
