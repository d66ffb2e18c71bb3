"""Save hard-quantized tensors and float leaves in one packed, checksummed safetensors file, and load them.

`mecq_jax.reader` documents the format and holds the only reading logic; `load` goes through it.
"""

import os
import uuid
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target, flush to the disk, rename over it: readers see the old file or the new."""
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
