//! Runs a command in a mount namespace where only the named folders can be written.
//!
//! `confined --writable DIR ... -- COMMAND ARGUMENT ...`. Tests start daemons with it. If a broken
//! build resolves a name wrongly, its write fails with EROFS. This protects files only. It is no
//! sandbox against an attacker, which could mount again as root.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use pinhole_tests::mount_namespace;
use rustix::mount::MountFlags;

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

#[expect(clippy::print_stderr, reason = "a program says why it failed on standard error")]
fn report(error: &str) {
    eprintln!("confined: {error}");
}

/// Command line: what may be written, and the command.
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

/// Enters a new mount namespace and makes all mounts read-only, except the writable folders.
fn confine(writable: &[PathBuf]) -> Result<(), String> {
    let failed = |what: &str, path: &Path| {
        let what = format!("{what} {}", path.display());
        move |error: rustix::io::Errno| format!("{what}: {error}")
    };
    let root = Path::new("/");
    mount_namespace::enter_new(writable)
        .map_err(|error| format!("cannot leave the host's mounts: {error}"))?;
    for folder in writable {
        rustix::mount::mount_bind_recursive(folder, folder).map_err(failed("cannot bind", folder))?;
    }
    for mount in mount_namespace::mounts().map_err(|error| format!("cannot read the mount table: {error}"))? {
        if writable.iter().any(|folder| mount.point.starts_with(folder)) {
            continue;
        }
        let flags = MountFlags::BIND | MountFlags::RDONLY | mount.flags;
        match rustix::mount::mount_remount(&mount.point, flags, "") {
            // A mount that another mount covers, or that this process cannot see, cannot be written
            // through either.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(failed("cannot make read-only", &mount.point)(error)),
        }
    }
    check_root_is_read_only(root)
}

/// Checks the result: the root must refuse a new file.
fn check_root_is_read_only(root: &Path) -> Result<(), String> {
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
