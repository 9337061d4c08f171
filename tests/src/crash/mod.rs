//! Work whose outcome is known whenever it is interrupted: a guest at the wire that keeps a journal
//! of its requests and their replies, and a checker that compares the host's files with the
//! journal.
//!
//! Each lane has one act in progress at a time, and names of its own. So after a kill the names of
//! a lane may be in two states: with that act and without it.

mod lane;
mod player;
mod tree;

use std::io;
use std::path::Path;

pub use lane::{Lane, Random};
pub use player::{AWAITED, AWAITED_LOCK, HELD, LaneEvent, Player, SETUP};
pub use tree::{Act, NamedObject, Tree};

/// Returns a line of the journal: `+3` means that lane 3 starts its act, `=3` that the act was
/// acknowledged.
pub fn line(lane: usize, said: LaneEvent) -> String {
    match said {
        LaneEvent::Sends => format!("+{lane}\n"),
        LaneEvent::Done => format!("={lane}\n"),
    }
}

/// State of the lanes of a guest that was interrupted, according to its journal.
#[derive(Debug)]
pub struct Journal {
    lanes: Vec<Lane>,
    asked: Vec<bool>,
}

impl Journal {
    /// Returns the journal of a guest that has not started any act.
    pub fn new(seed: u64, lanes: u32) -> Self {
        let lanes: Vec<Lane> = (0..lanes).map(|number| Lane::new(seed, number)).collect();
        Self { asked: vec![false; lanes.len()], lanes }
    }

    /// Reads one line, without its end. Returns whether the line acknowledges an act.
    ///
    /// # Errors
    /// Fails if the line is invalid.
    pub fn take(&mut self, text: &str) -> io::Result<bool> {
        let wrong = || io::Error::other(format!("`{text}` is not a line of a journal"));
        let (said, number) = text.split_at_checked(1).ok_or_else(wrong)?;
        let number: usize = number.parse().map_err(io::Error::other)?;
        let (Some(asked), Some(lane)) = (self.asked.get_mut(number), self.lanes.get_mut(number)) else {
            return Err(wrong());
        };
        match (said, *asked) {
            ("+", false) => *asked = true,
            ("=", true) => {
                *asked = false;
                lane.acknowledge();
                return Ok(true);
            }
            _ => return Err(wrong()),
        }
        Ok(false)
    }

    /// Compares a folder of the host with the journal and returns its content.
    ///
    /// # Errors
    /// Fails with the name that is missing, wrong or unexpected.
    pub fn check(&self, folder: &Path) -> io::Result<Tree> {
        let found = Tree::read(folder)?;
        let known: usize = self.lanes.iter().map(|lane| found.with_prefix(lane.prefix()).0.len()).sum();
        if known != found.0.len() {
            return Err(io::Error::other(format!("names that no lane made, among {:?}", found.0.keys())));
        }
        for (lane, asked) in self.lanes.iter().zip(&self.asked) {
            let (here, act) = (found.with_prefix(lane.prefix()), asked.then_some(&lane.act));
            if !here.is_outcome(&lane.tree, act) {
                let known = &lane.tree;
                return Err(io::Error::other(format!("{here:?} is not {known:?}, also not after {act:?}")));
            }
        }
        Ok(found)
    }
}
