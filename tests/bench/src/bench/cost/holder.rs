//! Front-end in a process of its own. The front-end connects, looks up files, and waits while the
//! daemon is measured.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::programs;
use crate::step::{Failure, Outcome};

/// Running front-end (`load --hold`). Dropping the value ends the process.
#[derive(Debug)]
pub(in crate::bench) struct Holder {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Holder {
    /// Connects to `socket` and sends INIT. [`Holder::learn`] then looks up `inodes` files of
    /// `share`.
    pub(in crate::bench) fn connect(socket: &Path, share: &Path, inodes: u32) -> Outcome<Self> {
        let mut command = programs::generator("load")?;
        command.arg("--share").arg(share).args(["--hold", &inodes.to_string()]);
        Self::start(command, socket)
    }

    /// Connects to `socket` and sends INIT. [`Holder::learn`] then lists all folders of the share.
    pub(in crate::bench) fn listing(socket: &Path) -> Outcome<Self> {
        let mut command = programs::generator("load")?;
        command.arg("--hold-listed");
        Self::start(command, socket)
    }

    /// Starts the front-end.
    fn start(mut command: Command, socket: &Path) -> Outcome<Self> {
        let mut child = command
            .arg("--socket")
            .arg(socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::io("cannot start the front-end"))?;
        let said = child.stdout.take().ok_or_else(|| Failure::new("the front-end has no standard output"))?;
        let mut holder = Self { child, said: BufReader::new(said) };
        holder.reach("connected")?;
        Ok(holder)
    }

    /// Lets the front-end look up or list the files. Returns when it knows all of them.
    pub(in crate::bench) fn learn(&mut self) -> Outcome {
        let input =
            self.child.stdin.as_mut().ok_or_else(|| Failure::new("the front-end has no standard input"))?;
        input.write_all(b"\n").map_err(Failure::io("cannot tell the front-end to continue"))?;
        self.reach("holds ")
    }

    /// Reads the next line of the front-end.
    ///
    /// # Errors
    /// Fails with the messages of the process if the line does not start with `word`.
    fn reach(&mut self, word: &str) -> Outcome {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(Failure::io("cannot read the output of the front-end"))?;
        if line.starts_with(word) {
            return Ok(());
        }
        let mut errors = String::new();
        if let Some(stderr) = self.child.stderr.as_mut() {
            stderr
                .read_to_string(&mut errors)
                .map_err(Failure::io("cannot read the errors of the front-end"))?;
        }
        Err(Failure::new(format!("{line}{}", errors.trim_end())))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Ignore the result of kill: the process may have ended already. wait reaps it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
