"""Does the operations of a user that is root in its own user namespace: `rootless.py DIRECTORY PLACE`."""

import os
import stat
import subprocess
import sys

from probe import as_user, attempt, leave_chroot, libc, outcome, read, see, write

USER = 1000
MAKERS = {
    "create": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o2775)),
    "mkdir": os.mkdir,
    "symlink": lambda path: os.symlink("target", path),
    "mkfifo": os.mkfifo,
    "mknod": lambda path: os.mknod(path, stat.S_IFREG | 0o644),
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o644),
    "tmpfile": lambda path: os.close(os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o600)),
}


def become_root_of_own_namespace():
    """Does the same as `unshare -Urm`: this process is root, but only its own ids are mapped."""
    os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNS)
    # A process that has changed its user may not write these files of its own: PR_SET_DUMPABLE.
    libc("prctl", 4, 1, 0, 0, 0)
    write("/proc/self/setgroups", b"deny")
    write("/proc/self/uid_map", f"0 {USER} 1".encode())
    write("/proc/self/gid_map", f"0 {USER} 1".encode())


def made(path):
    status = os.lstat(path)
    return f"{status.st_mode:o} {status.st_uid}:{status.st_gid}"


def make_all(folder):
    for name, make in MAKERS.items():
        path = f"{folder}/{name}"
        see(f"{folder} {name}", outcome(make, path))
        if os.path.lexists(path):
            see(f"{folder} {name} is", made(path))
    if os.path.exists(f"{folder}/create"):
        attempt(f"{folder} link", os.link, f"{folder}/create", f"{folder}/link")
        attempt(f"{folder} rename", os.rename, f"{folder}/link", f"{folder}/renamed")
        attempt(f"{folder} unlink", os.unlink, f"{folder}/renamed")


def as_root_of_namespace():
    become_root_of_own_namespace()
    for folder in ("closed-0", "closed-500", "closed-2500", "foreign", "open"):
        make_all(folder)


def as_plain_user():
    for folder in ("closed-0", "closed-500"):
        make_all(folder)


def overlay():
    """Mounts an overlay as a rootless container does: upper layer and work directory on the share."""
    become_root_of_own_namespace()
    os.mkdir("merged")
    here = os.getcwd()
    options = f"lowerdir={here}/lower,upperdir={here}/upper,workdir={here}/work,userxattr"
    mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, "merged"],
                             capture_output=True, text=True, check=False)
    see("mount", f"{mounted.returncode} {mounted.stderr.strip()}")
    if mounted.returncode:
        return
    see("lower file", read("merged/file"))
    write("merged/file", b"changed")
    write("merged/new", b"new")
    os.mkdir("merged/folder/made")
    os.unlink("merged/gone")
    attempt("rename", os.rename, "merged/new", "merged/folder/moved")
    os.chmod("merged/file", 0o400)
    see("file", (read("merged/file"), made("merged/file")))
    see("listed", (sorted(os.listdir("merged")), sorted(os.listdir("merged/folder"))))
    libc("umount2", b"merged", 0)
    see("upper", (sorted(os.listdir("upper")), read("upper/file"), made("upper/file")))
    mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, "merged"],
                             capture_output=True, text=True, check=False)
    see("again", (mounted.returncode, sorted(os.listdir("merged")), sorted(os.listdir("merged/folder"))))


def main(folder, place):
    leave_chroot()
    os.umask(0o022)
    os.mkdir(f"{folder}/rootless")
    os.chdir(f"{folder}/rootless")
    os.chmod(".", 0o777)
    for name, mode in (("closed-0", 0), ("closed-500", 0o500), ("closed-2500", 0o2500), ("open", 0o755)):
        os.mkdir(name)
        os.chown(name, USER, USER)
        os.chmod(name, mode)
    # Its owner has no id in the namespace, so the namespace gives no right to it.
    os.mkdir("foreign", 0o500)
    for name in ("lower", "lower/folder", "upper", "work"):
        os.mkdir(name)
        os.chown(name, USER, USER)
    for name, content in (("lower/file", b"lower"), ("lower/gone", b"gone"), ("lower/folder/kept", b"kept")):
        write(name, content)
        os.chown(name, USER, USER)
    print(f"@ {place} plain", flush=True)
    as_user(USER, USER, [], as_plain_user)
    print("@ end", flush=True)
    print(f"@ {place} namespace", flush=True)
    as_user(USER, USER, [], as_root_of_namespace)
    print("@ end", flush=True)
    print(f"@ {place} overlay", flush=True)
    as_user(USER, USER, [], overlay)
    print("@ end", flush=True)


main(*sys.argv[1:])
