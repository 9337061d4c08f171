"""Runs cases of the POSIX suite: `posix.py run PLACE DIRECTORY CASE...` or `posix.py manifest DIRECTORY`.

Without case names: all of those that need no extended attributes.
"""

import sys

import cases_files
import cases_mounts
import cases_names
import cases_rights
import probe

RICH = ["extended_attributes", "attributes_of_the_system", "access_control_lists", "overlay_lower", "overlay_upper"]
SLOW = ["many_entries"]


def main(words):
    if words[0] == "manifest":
        probe.manifest(words[1])
        return
    _, place, top, *names = words
    chosen = []
    for name in names:
        if name == "plain":
            chosen += [known for known in probe.CASES if known not in RICH]
        elif name == "rich":
            chosen += RICH
        elif name == "quick":
            chosen += [known for known in probe.CASES if known not in RICH + SLOW]
        else:
            chosen.append(name)
    probe.run(place, top, chosen)


main(sys.argv[1:])
