"""Where a run's folders are: in memory when there is room, since nothing in them is to outlive the run.

Every commit of a test waits for the disk, as the product's own do. On a disk, that waiting is most of what the tests take; in memory
the same calls are made and answered at once. The crash and power-cut tests look at the order of the calls, not at the disk.
"""

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 * 1024**3
"""What must be free there; a run of the whole suite takes less than half of it."""


def quick_folder() -> Path | None:
    """Return a place in memory for folders of a run; None where there is none or too little room."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
        return MEMORY
    return None
