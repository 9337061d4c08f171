//! Progress of a run with an estimate of the rest: a bar on a terminal, a line from time to time
//! elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinhole_tests::command::console::complain;

/// Interval between two lines.
const INTERVAL: Duration = Duration::from_secs(30);

/// Progress of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    last: Instant,
}

impl Progress {
    /// Starts a run of so many programs.
    pub(crate) fn new(programs: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(programs), target);
        let template = "{elapsed_precise} {bar:30} {pos}/{len}, {eta} left {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, began: now, last: now }
    }

    /// Counts finished programs.
    pub(crate) fn add(&mut self, programs: u64, violations: usize) {
        self.bar.inc(programs);
        self.bar.set_message(format!("{violations} violations"));
        if self.bar.is_hidden() && self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
            let left = self.began.elapsed().as_secs() * all.saturating_sub(done) / done.max(1);
            complain(format!("{done} of {all} programs, {violations} violations, about {left} s left"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
