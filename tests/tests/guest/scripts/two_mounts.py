"""Uses two mounts of one folder and one of another at the same time: `two_mounts.py FIRST TWIN OTHER`."""

import os
import sys
import time

from probe import attempt, read, see, write

first, twin, other = sys.argv[1:]
# The default mode caches attributes and names for one second.
BEYOND_THE_CACHE = 1.2

write(f"{first}/two-mounts", b"one")
see("seen by the twin", read(f"{twin}/two-mounts"))
with open(f"{twin}/two-mounts", "ab") as file:
    file.write(b"two")
time.sleep(BEYOND_THE_CACHE)
see("seen by the first", read(f"{first}/two-mounts"))
attempt("renamed across", os.rename, f"{first}/two-mounts", f"{other}/x")
attempt("linked across", os.link, f"{first}/two-mounts", f"{twin}/x")
write(f"{other}/two-mounts-rich", b"elsewhere")
see("the other share", [name for name in os.listdir(other) if name.startswith("two-mounts")])
see("names on both", sorted(os.listdir(first)) == sorted(os.listdir(twin)))
write(f"{first}/short-lived", b"")
os.unlink(f"{twin}/short-lived")
time.sleep(BEYOND_THE_CACHE)
attempt("removed by the twin", os.stat, f"{first}/short-lived")
