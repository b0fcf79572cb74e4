"""Other projects' programs, made to run beside ours in one process."""

import importlib.metadata
import subprocess

PACKAGES = ("numpy", "scikit-learn", "torch", "openTSNE", "umap-learn", "flashbax")


def versions(purejaxrl: str | None = None) -> dict[str, str]:
    """Return the versions of those that are installed, and the commit of a checkout of PureJaxRL."""
    found = {}
    if purejaxrl is not None:
        command = ["git", "-C", purejaxrl, "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found["PureJaxRL"] = done.stdout.strip() or "unknown"
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
