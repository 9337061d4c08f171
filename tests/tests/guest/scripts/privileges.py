"""Set-user-id and set-group-id bits after a write: `privileges.py ids DIRECTORY PLACE MODE...`.

`ids` is a static program that prints its effective user and group. Each row copies it, gives the copy one of the modes
and lets its owner, without CAP_FSETID, change it in one way. Then another user runs it and reads its mode.
"""

import mmap
import os
import sys

from probe import KEEP_SIZE, PUNCH_HOLE, ZERO, as_user, fallocate, outcome, see

OWNER, RUNNER = 1000, 1001
PAGE = 4096


def past_the_end(descriptor):
    """Returns the offset of the first page behind the program. The program still runs after a write there."""
    length = os.fstat(descriptor).st_size
    return (length + PAGE - 1) // PAGE * PAGE


def buffered(path):
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, b"x", past_the_end(descriptor))
    os.close(descriptor)


def appended(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"x")
    os.close(descriptor)


def direct(path):
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.pwritev(descriptor, [mmap.mmap(-1, PAGE)], past_the_end(descriptor))
    os.close(descriptor)


def mapped(path):
    descriptor = os.open(path, os.O_RDWR)
    try:
        memory = mmap.mmap(descriptor, 0)
        memory[len(memory) - 1] = memory[len(memory) - 1]
        memory.flush()
        memory.close()
    finally:
        os.close(descriptor)


def truncated(path):
    os.truncate(path, os.stat(path).st_size + 1)


def truncated_open(path):
    descriptor = os.open(path, os.O_WRONLY)
    os.ftruncate(descriptor, os.fstat(descriptor).st_size + 1)
    os.close(descriptor)


def opened_to_nothing(path):
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def created_over(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755))


def allocated(mode):
    def allocate(path):
        descriptor = os.open(path, os.O_RDWR)
        fallocate(descriptor, mode, past_the_end(descriptor), PAGE)
        os.close(descriptor)
    return allocate


def copied(path):
    source = os.open(path, os.O_RDONLY)
    target = os.open(path, os.O_WRONLY)
    os.copy_file_range(source, target, 64, 0, past_the_end(target))
    os.close(source)
    os.close(target)


def spliced(path):
    target = os.open(path, os.O_WRONLY)
    os.lseek(target, past_the_end(target), os.SEEK_SET)
    source = os.open(path, os.O_RDONLY)
    os.sendfile(target, source, 0, 64)
    os.close(source)
    os.close(target)


ROWS = {
    "buffered": buffered,
    "appended": appended,
    "direct": direct,
    "mapped": mapped,
    "truncated by name": truncated,
    "truncated open": truncated_open,
    "opened to nothing": opened_to_nothing,
    "created over": created_over,
    "allocated": allocated(0),
    "allocated past the end": allocated(KEEP_SIZE),
    "punched": allocated(KEEP_SIZE | PUNCH_HOLE),
    "zeroed": allocated(ZERO),
    "copied": copied,
    "spliced": spliced,
}


def ran_as(path):
    """Returns the effective ids with which a user runs the program."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            os.setgroups([])
            os.setresgid(RUNNER, RUNNER, RUNNER)
            os.setresuid(RUNNER, RUNNER, RUNNER)
            os.execv(path, [path])
        finally:
            os._exit(9)
    os.close(writing)
    with os.fdopen(reading) as output:
        text = output.read().strip()
    ended = os.waitpid(child, 0)[1]
    return f"{text}, ended with {ended}" if ended else text


def prepared(program, name, mode):
    with open(name, "wb") as copy:
        copy.write(program)
    os.chown(name, OWNER, OWNER)
    os.chmod(name, mode)


def main(ids, folder, place, *modes):
    with open(ids, "rb") as file:
        program = file.read()
    os.chdir(folder)
    os.chmod(".", 0o777)
    for mode in (int(mode, 8) for mode in modes):
        for row, change in ROWS.items():
            name = f"{row.replace(' ', '-')}-{mode:o}"
            print(f"@ {place} {row.replace(' ', '-')}-{mode:o}", flush=True)
            prepared(program, name, mode)
            see("before", (oct(os.stat(name).st_mode), ran_as(os.path.abspath(name))))
            as_user(OWNER, OWNER, [], lambda: see("change", outcome(change, name)))
            if change in (opened_to_nothing, created_over):
                # A write by root keeps the bits, so the program is complete again.
                with open(name, "r+b") as file:
                    file.write(program)
            # The program first: a stat would update the mode in the guest's cache.
            see("ran as", ran_as(os.path.abspath(name)))
            see("mode", oct(os.stat(name).st_mode))
            print("@ end", flush=True)


main(*sys.argv[1:])
