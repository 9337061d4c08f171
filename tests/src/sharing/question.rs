//! Definition of a question, and of the modes in which pinhole promises the answer yes.

use super::fault::Fault;
use super::participants::Participants;
use super::subject::Subject;

/// Topic of a question. A test of a suite asks the questions of some groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// When changes by other participants become visible.
    Seen,
    /// Names that all guests make, move and remove at the same time.
    Names,
    /// Common programs that coordinate by names.
    Programs,
    /// Databases, which coordinate by locks.
    Databases,
    /// Record locks and flock.
    Locks,
}

/// Cache modes of pinhole in which the answer must be yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promised {
    /// Modes in which nothing is stale.
    Strict,
    /// Modes in which nothing is stale, and modes with close-to-open consistency.
    StrictAndAuto,
    /// Modes that permit shared mappings. Each guest then maps its own copy of a file.
    Mapped,
}

impl Promised {
    /// Returns whether a subject makes this promise. virtiofsd makes none of them.
    pub fn by(self, subject: Subject) -> bool {
        match subject {
            Subject::Strict => true,
            Subject::Never => self != Self::Mapped,
            Subject::Auto => matches!(self, Self::StrictAndAuto | Self::Mapped),
            Subject::PeerNever | Subject::PeerAuto => false,
        }
    }
}

/// One question about sharing.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Short name without spaces, and the folder in which the question works.
    pub name: &'static str,
    /// The question as a sentence.
    pub asks: &'static str,
    /// Topic.
    pub group: Group,
    /// Modes in which the answer must be yes.
    pub promised: Promised,
    /// Asks the question. Returns its counts as text, or why the answer is no.
    pub answer: fn(&mut Participants) -> Result<String, Fault>,
}

impl Question {
    /// Asks the question in a folder of its own. Returns its counts as text.
    ///
    /// # Errors
    /// [`Fault`]: why the answer is no, or what is wrong with the harness.
    pub fn ask(&self, participants: &mut Participants) -> Result<String, Fault> {
        participants.answer(self.name, self.answer)
    }

    /// Returns the same question with another promise.
    pub(crate) const fn promised(mut self, promised: Promised) -> Self {
        self.promised = promised;
        self
    }

    /// Returns the same question, with a promise that holds for close-to-open modes too.
    pub(crate) const fn and_auto(self) -> Self {
        self.promised(Promised::StrictAndAuto)
    }
}
