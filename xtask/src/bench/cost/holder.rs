//! A front-end as a process of its own, which connects, looks files up, and waits while the daemon is measured.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::step::{Failure, Outcome};
use crate::workspace;

/// A front-end under way (`load --hold`). Dropping it ends it.
#[derive(Debug)]
pub(super) struct Holder {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Holder {
    /// Connects to `socket` and says INIT; will look up `inodes` files of `share`.
    pub(super) fn connect(socket: &Path, share: &Path, inodes: u32) -> Outcome<Self> {
        let program = workspace::target().join("release/load");
        let mut child = Command::new(&program)
            .arg("--socket")
            .arg(socket)
            .arg("--share")
            .arg(share)
            .args(["--hold", &inodes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::io(format!("cannot start {}", program.display())))?;
        let said = child.stdout.take().ok_or_else(|| Failure::new("a front-end without an output"))?;
        let mut holder = Self { child, said: BufReader::new(said) };
        holder.reach("connected")?;
        Ok(holder)
    }

    /// Looks the files up; returns when all are known.
    pub(super) fn look_up(&mut self) -> Outcome {
        let input = self.child.stdin.as_mut().ok_or_else(|| Failure::new("a front-end without an input"))?;
        input.write_all(b"\n").map_err(Failure::io("cannot tell the front-end to go on"))?;
        self.reach("holds ")
    }

    /// Reads the next line, which begins with `word`, or why there is none.
    fn reach(&mut self, word: &str) -> Outcome {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(Failure::io("cannot read what the front-end says"))?;
        if line.starts_with(word) {
            return Ok(());
        }
        let mut errors = String::new();
        if let Some(stderr) = self.child.stderr.as_mut() {
            stderr.read_to_string(&mut errors).map_err(Failure::io("cannot read the front-end's errors"))?;
        }
        Err(Failure::new(format!("{line}{}", errors.trim_end())))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that has just ended by itself needs no killing; either way it is reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
