//! What a front-end can do, found out on a file of our own before a guest is told that it may map. Nothing of it is in
//! the protocol, and the answers are one bit.

use super::ScratchFile;
use super::back_channel::{Line, Message, Messenger, Silent};
use crate::log_budget::Source;
use pinhole_dax_cache::{
    Capabilities, Failure, Overlap, QEMU_MAPPINGS_MAX, REPLACING_MAPPINGS_MAX, SLOT_LEN,
};
use std::os::fd::{AsFd, BorrowedFd};

/// What was learnt of front-ends, for the log.
pub(crate) static LOG: Source = Source::of_news();

/// A front-end that can be used.
pub(crate) struct Usable(pub(crate) Capabilities);

/// Why a front-end cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    /// Without answers nobody would know what is mapped.
    #[error("it acknowledges what cannot be done (is REPLY_ACK negotiated?)")]
    NoAnswers,
    #[error("it maps nothing, neither to read nor to write")]
    MapsNothing,
    #[error("it does not take out what it has mapped")]
    KeepsMappings,
    #[error("it does not answer")]
    Gone,
    /// Linux would learn of it by failing reads.
    #[error(
        "it has room for {max} mappings, and the window for {slots}: give --dax-window {len_max} or less"
    )]
    TooFew { max: usize, slots: u64, len_max: u64 },
}

const FIRST: Message = Message { window_offset: 0, file_offset: 0, len: SLOT_LEN, writable: false };
const FIRST_WRITABLE: Message = Message { writable: true, ..FIRST };

/// Asks. Whatever is mapped for it is taken out again.
pub(crate) fn learn<M: Messenger>(line: &Line<'_, M>) -> Result<Result<Usable, Unusable>, Silent> {
    let window_len = line.window.len();
    let scratch = &line.window.scratch;
    // A front-end that is to acknowledge can only refuse this.
    match line.unmap_at(window_len, SLOT_LEN)? {
        Ok(()) => return Ok(Err(Unusable::NoAnswers)),
        Err(Failure::Gone) => return Ok(Err(Unusable::Gone)),
        Err(Failure::Refused) => {}
    }
    let trial = Trial { line, read_only: scratch.read_only.as_fd(), writable: scratch.writable.as_fd() };
    trial.run().map(|found| found.and_then(|capabilities| fitting(capabilities, window_len)))
}

fn fitting(capabilities: Capabilities, window_len: u64) -> Result<Usable, Unusable> {
    let len_max = capabilities.window_len_max();
    if window_len > len_max {
        let slots = window_len / SLOT_LEN;
        return Err(Unusable::TooFew { max: capabilities.mappings_max, slots, len_max });
    }
    if let Some(suppressed) = LOG.pass() {
        tracing::info!(?capabilities, suppressed, "DAX window");
    }
    Ok(Usable(capabilities))
}

struct Trial<'t, 'l, M> {
    line: &'t Line<'l, M>,
    read_only: BorrowedFd<'t>,
    writable: BorrowedFd<'t>,
}

impl<M: Messenger> Trial<'_, '_, M> {
    fn run(&self) -> Result<Result<Capabilities, Unusable>, Silent> {
        let reads = self.line.map(&FIRST, self.read_only)?.is_ok();
        let over = if reads {
            // Something is there, over which the next one comes.
            self.line.map(&FIRST, self.read_only)?.is_ok()
        } else {
            if self.line.map(&FIRST_WRITABLE, self.writable)?.is_err() {
                return Ok(Err(Unusable::MapsNothing));
            }
            self.line.map(&FIRST_WRITABLE, self.writable)?.is_ok()
        };
        if self.line.unmap_at(0, SLOT_LEN)?.is_err() {
            return Ok(Err(Unusable::KeepsMappings));
        }
        let (overlap, mappings_max) = if over {
            (Overlap::Replaced, REPLACING_MAPPINGS_MAX)
        } else {
            (Overlap::Refused, QEMU_MAPPINGS_MAX)
        };
        let beyond = Message { file_offset: SLOT_LEN, writable: !reads, ..FIRST };
        let file = if reads { self.read_only } else { self.writable };
        let past_end_of_file = self.line.map(&beyond, file)?.is_ok();
        if past_end_of_file && self.line.unmap_at(0, SLOT_LEN)?.is_err() {
            return Ok(Err(Unusable::KeepsMappings));
        }
        Ok(Ok(Capabilities {
            read_only_descriptors: reads,
            past_end_of_file,
            overlap,
            mappings_max,
            drops_on_reset: false,
        }))
    }
}

const _: () = assert!(ScratchFile::LEN > SLOT_LEN && ScratchFile::LEN < 2 * SLOT_LEN);
