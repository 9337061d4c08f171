//! A loop device that no end of this process leaves behind, not even SIGKILL.

use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Attaches a free loop device to the file `$0`, prints its path, and detaches it at the end of
/// standard input: the other end of that pipe is closed when this process ends. A write to a pipe
/// that nothing reads must not end it first.
const SCRIPT: &str = "trap '' PIPE
device=$(losetup --find --show \"$0\") || exit
echo \"$device\"
read -r never
exec losetup --detach \"$device\"";

/// Loop device. Dropping it detaches it, or marks it to be detached by its last user.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    holder: Child,
}

impl LoopDevice {
    /// Attaches a loop device to a file.
    ///
    /// # Errors
    /// Fails without root or loop devices.
    pub(super) fn attach(file: &Path) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).arg(file);
        // An interrupt from the terminal must not end it first.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let holder = command.spawn();
        let holder =
            holder.map_err(|error| io::Error::other(format!("cannot start {command:?}: {error}")))?;
        let mut device = Self { path: PathBuf::new(), holder };
        let mut line = String::new();
        if let Some(stdout) = device.holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.is_empty() {
            return Err(io::Error::other(format!("no loop device for {}", file.display())));
        }
        device.path = PathBuf::from(line.trim());
        Ok(device)
    }

    /// Returns the path of the device.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // Ignore the result: the process is gone in both cases.
        drop(self.holder.wait());
    }
}
