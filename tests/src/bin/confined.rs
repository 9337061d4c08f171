//! Runs a command in a mount namespace where only the named folders can be written.
//!
//! `confined --writable DIR ... -- COMMAND ARGUMENT ...`. Tests start daemons under it: whatever a broken build does
//! with a name, it meets a read-only file system. It protects files only; it is no sandbox against an attacker, who
//! as root could mount again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

fn main() -> ExitCode {
    let error = match parse(std::env::args_os().skip(1)) {
        Ok(request) => match confine(&request.writable) {
            Ok(()) => {
                let error = Command::new(&request.program).args(&request.arguments).exec();
                format!("cannot execute {}: {error}", request.program.display())
            }
            Err(error) => error,
        },
        Err(usage) => usage,
    };
    report(&error);
    ExitCode::from(127)
}

#[expect(clippy::print_stderr, reason = "a program's one way to say why it failed")]
fn report(error: &str) {
    eprintln!("confined: {error}");
}

struct Request {
    writable: Vec<PathBuf>,
    program: OsString,
    arguments: Vec<OsString>,
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Request, String> {
    let mut writable = Vec::new();
    loop {
        let word = words.next().ok_or("no command: use `--writable DIR ... -- COMMAND ARGUMENT ...`")?;
        if word == "--" {
            break;
        }
        if word != "--writable" {
            return Err(format!("unknown argument {}: use --writable DIR", word.display()));
        }
        writable.push(PathBuf::from(words.next().ok_or("--writable needs a folder")?));
    }
    let program = words.next().ok_or("no command after `--`")?;
    Ok(Request { writable, program, arguments: words.collect() })
}

fn confine(writable: &[PathBuf]) -> Result<(), String> {
    let failed = |what: &str, path: &Path| {
        let what = format!("{what} {}", path.display());
        move |error: rustix::io::Errno| format!("{what}: {error}")
    };
    let root = Path::new("/");
    #[expect(deprecated, reason = "the safe form; only file tables could break I/O safety, mounts cannot")]
    rustix::thread::unshare(UnshareFlags::NEWNS).map_err(failed("cannot leave the mounts of", root))?;
    rustix::mount::mount_change(root, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("cannot make private", root))?;
    for folder in writable {
        rustix::mount::mount_bind_recursive(folder, folder).map_err(failed("cannot bind", folder))?;
    }
    for mount in mounts().map_err(|error| format!("cannot read the mount table: {error}"))? {
        if writable.iter().any(|folder| mount.point.starts_with(folder)) {
            continue;
        }
        let flags = MountFlags::BIND | MountFlags::RDONLY | mount.kept;
        match rustix::mount::mount_remount(&mount.point, flags, "") {
            // A mount that another one hides, or that is not ours to see, cannot be written through either.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(failed("cannot make read-only", &mount.point)(error)),
        }
    }
    writable_is_all_that_is(root)
}

/// The proof: the root must refuse a new file.
fn writable_is_all_that_is(root: &Path) -> Result<(), String> {
    let probe = root.join(format!(".confined-{}", std::process::id()));
    match fs::File::create_new(&probe) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(error) => Err(format!("the root answers a new file with: {error}")),
        Ok(_file) => {
            let cleaned = fs::remove_file(&probe);
            Err(format!("the root is still writable (probe removed: {})", cleaned.is_ok()))
        }
    }
}

struct Mount {
    point: PathBuf,
    /// Flags that a remount would otherwise lose.
    kept: MountFlags,
}

fn mounts() -> io::Result<Vec<Mount>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse_mount).collect())
}

/// One line of mountinfo, `proc_pid_mountinfo(5)`: the fifth field is the mount point, the sixth its options.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let mut kept = MountFlags::empty();
    for option in fields.next()?.split(|byte| *byte == b',') {
        kept |= match option {
            b"nosuid" => MountFlags::NOSUID,
            b"nodev" => MountFlags::NODEV,
            b"noexec" => MountFlags::NOEXEC,
            b"noatime" => MountFlags::NOATIME,
            b"nodiratime" => MountFlags::NODIRATIME,
            b"relatime" => MountFlags::RELATIME,
            _ => MountFlags::empty(),
        };
    }
    Some(Mount { point: PathBuf::from(OsStr::from_bytes(&point)), kept })
}

/// Space, tab, newline and backslash stand in the table as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) if first == b'\\' => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            Some(_) | None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_space_in_a_mount_point_is_a_space() {
        assert_eq!(unescape(br"/a\040b"), b"/a b");
    }

    #[test]
    fn flags_of_a_mount_survive_its_remount() {
        let mount = parse_mount(b"22 1 0:20 / /sys ro,nosuid,noexec - sysfs sysfs rw").unwrap();
        assert_eq!(mount.point, Path::new("/sys"));
        assert_eq!(mount.kept, MountFlags::NOSUID | MountFlags::NOEXEC);
    }
}
