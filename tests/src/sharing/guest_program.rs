//! Program of one guest or of the host, as the harness sees it: files in its channel are requests,
//! and its output has the replies.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::Timespec;

use super::fault::Fault;

/// Interval between two reads of an output.
const LOOK: Duration = Duration::from_millis(2);

/// Reply to one request.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Text without the line that ends it.
    pub(super) text: String,
    /// Exit code; 0 is success.
    pub(super) code: i32,
}

/// Channel to one running program.
#[derive(Debug)]
pub(super) struct GuestProgram {
    /// Name of the guest or the host, for messages.
    pub(super) name: String,
    /// Folder of the files `ask-1`, `ask-2` and so on.
    channel: PathBuf,
    /// File with the output of the program.
    output: PathBuf,
    /// Number of requests that were sent.
    asked: u32,
    /// Number of bytes of the output that have been read.
    heard: usize,
    /// Last request.
    last: String,
}

impl GuestProgram {
    pub(super) fn new(name: impl Into<String>, channel: PathBuf, output: PathBuf) -> Self {
        Self { name: name.into(), channel, output, asked: 0, heard: 0, last: String::new() }
    }

    /// Sends a request without waiting for the reply.
    pub(super) fn ask(&mut self, line: &str) -> Result<(), Fault> {
        self.asked += 1;
        line.clone_into(&mut self.last);
        let unfinished = self.channel.join("unfinished");
        let asked = fs::write(&unfinished, line)
            .and_then(|()| fs::rename(&unfinished, self.channel.join(format!("ask-{}", self.asked))));
        asked.map_err(Fault::host("cannot send a request to a guest program"))
    }

    /// Waits for the reply to the last request.
    pub(super) fn hear(&mut self, limit: Duration) -> Result<Answer, Fault> {
        let began = Instant::now();
        loop {
            let output = fs::read(&self.output).unwrap_or_default();
            let new = output.get(self.heard..).unwrap_or_default();
            let text = String::from_utf8_lossy(new).into_owned();
            if let Some(answer) = self.ended(&text) {
                self.heard = output.len();
                return Ok(answer);
            }
            if began.elapsed() > limit {
                return Err(Fault::Silent { who: self.name.clone(), ask: self.last.clone(), limit });
            }
            let look = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
            // A poll without descriptors is a sleep. If it is interrupted, it is a shorter one.
            rustix::event::poll(&mut [], Some(&look)).unwrap_or_default();
        }
    }

    /// Returns the reply if `text` ends with the whole line that ends a reply. For the third
    /// request and exit code 0 this line is `>3 0`.
    fn ended(&self, text: &str) -> Option<Answer> {
        let (before, last) = text.strip_suffix('\n')?.rsplit_once('\n').unwrap_or(("", text.trim_end()));
        let code = last.strip_prefix(&format!(">{} ", self.asked))?;
        Some(Answer { text: before.to_owned(), code: code.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_own_line() {
        let mut program = GuestProgram::new("guest", PathBuf::new(), PathBuf::new());
        program.asked = 3;
        let answer = program.ended("one\ntwo\n>3 1\n").unwrap();
        assert_eq!((answer.text.as_str(), answer.code), ("one\ntwo", 1));
        assert_eq!(program.ended(">3 0\n").unwrap().text, "");
        for unfinished in ["", "one\n", "one\n>3 ", "one\n>3 0", ">2 0\n"] {
            assert!(program.ended(unfinished).is_none(), "{unfinished}");
        }
    }
}
