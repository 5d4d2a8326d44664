"""Download and unpack every row of sources.py below one folder (needs apt-get, dpkg and pip)."""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

from sources import SOURCES, Source


def fetch_deb(source: Source, target: Path) -> None:
    """Download one Debian package and unpack it without installing it."""
    subprocess.run(["apt-get", "download", "-q", source.package], cwd=target.parent, check=True)
    (archive,) = target.parent.glob(f"{source.package}_*.deb")
    subprocess.run(["dpkg", "-x", str(archive), str(target)], check=True)
    archive.unlink()


def fetch_sdist(source: Source, target: Path) -> None:
    """Download one source distribution and unpack it without installing it."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "-d", str(target), source.package], check=True)
    (archive,) = target.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    archive.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder to fill, one sub-folder per package")
    root = parser.parse_args().root
    root.mkdir(parents=True, exist_ok=True)
    fetch = {"deb": fetch_deb, "sdist": fetch_sdist}
    for source in SOURCES:
        target = root / source.package
        if not target.exists():
            target.mkdir()
            fetch[source.kind](source, target)


if __name__ == "__main__":
    main()
