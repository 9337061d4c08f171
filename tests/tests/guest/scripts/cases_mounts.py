"""More than one mount: overlayfs on the share."""

import os
import subprocess

from probe import attempt, case, mode_of, read, see, write


def mount_overlay(options, target):
    done = subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", target],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    see("mounted", done.returncode or "ok")
    if done.returncode:
        see("because", done.stdout.decode(errors="replace").strip())
    return done.returncode == 0


def unmount(target):
    subprocess.run(["umount", target], check=True)


def lower_tree(top):
    os.makedirs(f"{top}/folder/below")
    write(f"{top}/file", b"from below")
    write(f"{top}/folder/one", b"1")
    write(f"{top}/folder/below/two", b"2")
    os.symlink("file", f"{top}/link")
    os.link(f"{top}/file", f"{top}/hard")


def change(top):
    """Does operations for which an overlay must copy up, hide and make names again."""
    see("seen through", (read(f"{top}/file"), read(f"{top}/link"), sorted(os.listdir(f"{top}/folder"))))
    with open(f"{top}/file", "ab") as file:
        file.write(b", changed above")
    see("copied up", read(f"{top}/file"))
    os.chmod(f"{top}/folder/one", 0o600)
    see("mode copied up", mode_of(f"{top}/folder/one"))
    os.unlink(f"{top}/hard")
    attempt("hidden", os.stat, f"{top}/hard")
    subprocess.run(["rm", "-r", f"{top}/folder/below"], check=True)
    os.mkdir(f"{top}/folder/below")
    see("remade directory is opaque", os.listdir(f"{top}/folder/below"))
    os.rename(f"{top}/link", f"{top}/renamed")
    write(f"{top}/new", b"new above")
    attempt("directory renamed", os.rename, f"{top}/folder", f"{top}/folder2")
    see("listing", sorted(os.listdir(top)))


@case
def overlay_lower():
    lower_tree("lower")
    os.makedirs("/tmp/overlay/merged", exist_ok=True)
    for name in ("upper", "work"):
        os.makedirs(f"/tmp/overlay/{name}", exist_ok=True)
    here = os.getcwd()
    if mount_overlay(f"lowerdir={here}/lower,upperdir=/tmp/overlay/upper,workdir=/tmp/overlay/work",
                     "/tmp/overlay/merged"):
        change("/tmp/overlay/merged")
        unmount("/tmp/overlay/merged")
    subprocess.run(["rm", "-rf", "/tmp/overlay"], check=True)
    see("the lower tree is as it was", (read("lower/file"), sorted(os.listdir("lower"))))


@case
def overlay_upper():
    lower_tree("lower")
    for name in ("upper", "work", "merged"):
        os.mkdir(name)
    here = os.getcwd()
    options = f"lowerdir={here}/lower,upperdir={here}/upper,workdir={here}/work"
    if not mount_overlay(options, "merged"):
        return
    change("merged")
    unmount("merged")
    see("the lower tree is as it was", (read("lower/file"), sorted(os.listdir("lower"))))
    see("the upper tree", sorted(os.listdir("upper")))
    if mount_overlay(options, "merged"):
        see("again", (read("merged/file"), sorted(os.listdir("merged")), os.listdir("merged/folder/below")
                      if os.path.isdir("merged/folder") else os.listdir("merged/folder2/below")))
        unmount("merged")
    os.rmdir("merged")
