"""Files that appear whole or not at all."""

import os
import uuid
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old one or the new one, never a part.

    The bytes are written beside the target and flushed to the disk, then renamed over it.

    Args:
      path: where to write; its folder exists.
      data: all bytes of the file.

    Raises:
      OSError: if the file cannot be written; one that was at `path` is left as it was.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from mecq_jax.storage import write_atomically
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_atomically(Path(folder) / "note", b"whole")
      ...     (Path(folder) / "note").read_bytes()
      b'whole'
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
