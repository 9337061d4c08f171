//! Builds the program that all guests and the host run, with the compiler of the userland. The
//! program is static, so that the host can run it too.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::fault::Fault;
use crate::daemon::Daemon;
use crate::guest::Guest;

/// The built program. A process builds it only once, for all of its tests.
static BUILT: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Command that compiles the program in the guest.
const COMPILE: &str =
    "gcc -O2 -Wall -Werror -static -o /mnt/out/guest_program /extra/guest_program.c /extra/work.c";

/// Returns the static program, and builds it in a guest before its first use. `pinhole` is the
/// daemon's program: its share takes the built program out of the guest.
///
/// # Errors
/// Fails if the guest cannot be started, or the program cannot be built.
pub fn program(pinhole: &Path) -> Result<Vec<u8>, Fault> {
    let mut made = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = made.as_ref() {
        return Ok(program.clone());
    }
    let folder = tempfile::tempdir().map_err(Fault::host("cannot make a folder"))?;
    let daemon = Daemon::pinhole_at(pinhole, folder.path()).argument("--tag=out").start()?;
    let finished = Guest::uml()
        .userland()
        .share(daemon.socket(), "out")
        .file("guest_program.c", 0o644, include_bytes!("guest_program/guest_program.c"))
        .file("guest_program.h", 0o644, include_bytes!("guest_program/guest_program.h"))
        .file("work.c", 0o644, include_bytes!("guest_program/work.c"))
        .run(COMPILE)?;
    if finished.exit_code != 0 {
        return Err(Fault::Wrong(format!("the program was not made: {}", finished.text())));
    }
    let program =
        fs::read(folder.path().join("guest_program")).map_err(Fault::host("cannot read the program"))?;
    *made = Some(program.clone());
    Ok(program)
}
