//! The load generator (the command `load` of this program) in a process of its own, with the daemon
//! that it measures.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use pinhole_tests::daemon::Serving;
use serde_json::Value;

use crate::programs;
use crate::step::{Failure, Outcome};

/// Running load generator, which waits for steps. Dropping the value ends it and its daemon.
pub(super) struct LoadProcess {
    /// Name of the contestant, for errors.
    name: String,
    child: Child,
    steps: Option<ChildStdin>,
    figures: BufReader<ChildStdout>,
    /// Daemon, kept until the load generator has ended.
    _daemon: Option<Serving>,
}

impl LoadProcess {
    /// Starts the load generator for `daemon`, or for bare host calls. The files of its rows are in
    /// the folder `share`. It has `queues` request queues and measures each row for `seconds`.
    ///
    /// # Errors
    /// Fails if the process does not start.
    pub(super) fn start(
        name: &str,
        daemon: Option<Serving>,
        share: &Path,
        (queues, seconds): (u32, f64),
    ) -> Outcome<Self> {
        let mut command = programs::generator("load")?;
        command.args(["--json", "--steps"]).arg("--share").arg(share);
        command.arg(format!("--seconds={seconds}")).arg(format!("--queues={queues}"));
        match &daemon {
            Some(daemon) => {
                command.arg("--socket").arg(daemon.socket()).arg(format!("--process={}", daemon.serving_id()))
            }
            None => command.arg("--native"),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::io("cannot start the load generator"))?;
        let steps = child.stdin.take();
        let output =
            child.stdout.take().ok_or_else(|| Failure::new("the load generator has no standard output"))?;
        let figures = BufReader::new(output);
        Ok(Self { name: name.to_owned(), child, steps, figures, _daemon: daemon })
    }

    /// Measures one row at one depth. Returns the object that the load generator prints.
    ///
    /// # Errors
    /// Fails with the messages of the load generator.
    pub(super) fn play(&mut self, row: &str, depth: u32) -> Outcome<Value> {
        let asked = self.steps.as_mut().map(|steps| writeln!(steps, "{row} {depth}"));
        let mut line = String::new();
        let read_len =
            self.figures.read_line(&mut line).map_err(Failure::io("cannot read from the load generator"))?;
        if read_len == 0 || asked.is_none_or(|asked| asked.is_err()) {
            return Err(self.failure());
        }
        serde_json::from_str(&line)
            .map_err(|error| Failure::new(format!("the load generator printed `{line}`: {error}")))
    }

    /// Returns an error with the messages of the load generator.
    fn failure(&mut self) -> Failure {
        let mut said = String::new();
        if let Some(mut errors) = self.child.stderr.take()
            && let Err(error) = errors.read_to_string(&mut said)
        {
            return Failure::new(format!(
                "{}: cannot read the errors of its load generator: {error}",
                self.name
            ));
        }
        Failure::new(format!("{}: {}", self.name, said.trim_end()))
    }

    /// Ends the load generator by closing its input.
    ///
    /// # Errors
    /// Fails if it reports an error.
    pub(super) fn end(mut self) -> Outcome {
        drop(self.steps.take());
        let status = self.child.wait().map_err(Failure::io("cannot wait for the load generator"))?;
        if status.success() { Ok(()) } else { Err(self.failure()) }
    }
}

impl Drop for LoadProcess {
    fn drop(&mut self) {
        // Ignore the result of kill: the process may have ended already. wait reaps it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
