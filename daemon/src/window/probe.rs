//! Probes the capabilities of a front-end with a file of our own, before a guest may map.
//!
//! The protocol does not announce them, and a reply is one bit.

use super::ScratchFile;
use super::link::{Interrupted, Link, MapMessage, ShmemFrontEnd};
use crate::log_budget::Source;
use pinhole_dax_cache::{
    Capabilities, Failure, Overlap, QEMU_MAPPINGS_MAX, REPLACING_MAPPINGS_MAX, SLOT_LEN,
};
use std::os::fd::AsFd;

/// Limits log lines about results of probes.
pub(super) static LOG: Source = Source::of_news();

/// Reason why a front-end cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// Without replies it would be unknown which mappings exist.
    #[error("it acknowledges an impossible request (is REPLY_ACK negotiated?)")]
    NoReplies,
    #[error("it maps nothing, neither for reading nor for writing")]
    MapsNothing,
    #[error("it does not remove its mappings")]
    KeepsMappings,
    #[error("it does not reply")]
    Gone,
    /// In Linux, reads would fail.
    #[error(
        "it has room for {max} mappings, and the window for {slots}: give --dax-window {len_max} or less"
    )]
    TooFew { max: usize, slots: u64, len_max: u64 },
}

const FIRST: MapMessage = MapMessage { window_offset: 0, file_offset: 0, len: SLOT_LEN, writable: false };

/// Runs all trials. Every mapping of a trial is removed again.
pub(super) fn run<M: ShmemFrontEnd>(
    link: &Link<'_, M>,
) -> Result<Result<Capabilities, Unusable>, Interrupted> {
    let window_len = link.window.len_bytes();
    // A front-end that reports errors can only refuse this.
    match link.unmap(window_len, SLOT_LEN)? {
        Ok(()) => return Ok(Err(Unusable::NoReplies)),
        Err(Failure::Gone) => return Ok(Err(Unusable::Gone)),
        Err(Failure::Refused) => {}
    }
    Ok(try_mappings(link)?.and_then(|capabilities| check_room(capabilities, window_len)))
}

fn check_room(capabilities: Capabilities, window_len: u64) -> Result<Capabilities, Unusable> {
    let len_max = capabilities.window_len_max();
    if window_len > len_max {
        let slots = window_len / SLOT_LEN;
        return Err(Unusable::TooFew { max: capabilities.mappings_max, slots, len_max });
    }
    if let Some(suppressed) = LOG.pass() {
        tracing::info!(?capabilities, suppressed, "DAX window");
    }
    Ok(capabilities)
}

fn try_mappings<M: ShmemFrontEnd>(link: &Link<'_, M>) -> Result<Result<Capabilities, Unusable>, Interrupted> {
    let ScratchFile { writable, read_only, .. } = &link.window.scratch;
    let reads = link.map(&FIRST, read_only.as_fd())?.is_ok();
    let file = if reads { read_only.as_fd() } else { writable.as_fd() };
    let first = MapMessage { writable: !reads, ..FIRST };
    if !reads && link.map(&first, file)?.is_err() {
        return Ok(Err(Unusable::MapsNothing));
    }
    // The slot is mapped, so this overlaps.
    let replaces = link.map(&first, file)?.is_ok();
    if link.unmap(0, SLOT_LEN)?.is_err() {
        return Ok(Err(Unusable::KeepsMappings));
    }
    let (overlap, mappings_max) = if replaces {
        (Overlap::Replaced, REPLACING_MAPPINGS_MAX)
    } else {
        (Overlap::Refused, QEMU_MAPPINGS_MAX)
    };
    let beyond = MapMessage { file_offset: SLOT_LEN, ..first };
    let past_end_of_file = link.map(&beyond, file)?.is_ok();
    if past_end_of_file && link.unmap(0, SLOT_LEN)?.is_err() {
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

const _: () = assert!(ScratchFile::LEN > SLOT_LEN && ScratchFile::LEN < 2 * SLOT_LEN);
