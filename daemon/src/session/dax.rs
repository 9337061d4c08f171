//! What the session has to do with the DAX window: which files it offers for mapping, SETUPMAPPING
//! and REMOVEMAPPING, and INIT of a guest that wants to map.

use super::deferred::{Deferred, Then};
use super::serve::{Outcome, Scratch, Session, Terms};
use crate::filesystem::{Answer, FileSystem};
use crate::window::{ALIGNMENT_SHIFT, GuestGeneration, MapFiles, SetupPlan};
use pinhole_dax_cache::{Candidate, Capabilities, FileKind, Wanted};
use pinhole_policy::Access;
use pinhole_protocol::{
    Attr, Created, DirentKind, Errno, Header, InitFlags, InitOffer, InitRequest, NodeId, RemoveMapping,
    Reply, SetupMapping,
};
use rustix::fs::Mode;

/// What of a policy's grants could make a file longer or shorter.
const CHANGES_LENGTH: Access = Access::WRITE
    .union(Access::APPEND)
    .union(Access::TRUNCATE)
    .union(Access::FALLOCATES)
    .union(Access::COPY_RANGE);

impl<F: FileSystem> Session<F> {
    /// INIT. One that wants to map waits until the front-end is ready for it; for others nothing is
    /// asked.
    pub(super) fn begin_init(
        &self,
        header: &Header<'_>,
        request: &InitRequest,
        scratch: &mut Scratch,
    ) -> Answer<Outcome> {
        let wants_window = request.flags.contains(InitFlags::MAP_ALIGNMENT);
        let prepared = self.window.as_ref().filter(|_| wants_window).and_then(|window| window.prepare());
        match prepared {
            Some((generation, pending)) => {
                let then = Then::Init(*request, generation);
                Ok(Outcome::Deferred(Deferred::for_front_end(header.unique, pending, then)))
            }
            None => self.init(request, None, scratch),
        }
    }

    /// Lets the guest whose generation was prepared map, or begins the generation of one that will
    /// not.
    ///
    /// # Errors
    /// EIO for an INIT that another has overtaken: it changes nothing any more.
    pub(super) fn open_window(&self, generation: Option<GuestGeneration>) -> Answer<Option<Capabilities>> {
        match (&self.window, generation) {
            (None, _) => Ok(None),
            (Some(window), Some(generation)) => window.open(generation),
            (Some(window), None) => {
                window.close();
                Ok(None)
            }
        }
    }

    /// What INIT offers.
    pub(super) fn offer(&self, dax: Option<&Capabilities>, request: &InitRequest) -> InitOffer {
        let mut offer = self.options.offer;
        // A guest that drops set-user-id and set-group-id by itself does so with the SETATTR of a
        // truncation. Where O_TRUNC is part of OPEN, Linux sends none.
        if !(offer.flags & request.flags).contains(InitFlags::HANDLE_KILLPRIV_V2) {
            offer.flags.remove(InitFlags::ATOMIC_O_TRUNC);
        }
        offer.map_alignment = dax.and_then(|_| u16::try_from(ALIGNMENT_SHIFT).ok());
        offer.flags.set(InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX, dax.is_some());
        offer
    }

    /// SETUPMAPPING. The file is opened here, so that the thread which talks to the front-end opens
    /// nothing.
    pub(super) fn set_up_mapping(
        &self,
        header: &Header<'_>,
        setup: SetupMapping,
        scratch: &mut Scratch,
    ) -> Answer<Outcome> {
        let Some(window) = &self.window else { return self.unserved(header, setup) };
        drop(self.permit(header, setup)?);
        if self.filesystem.node(header.node.0).is_none() {
            // What a guest has forgotten it cannot map, though it may still be there.
            return Err(Errno::ESTALE);
        }
        let granted = self.granted_at(header.node)?;
        let mut wanted = Wanted {
            node: header.node.0,
            file_offset: setup.file_offset,
            window_offset: setup.window_offset,
            len: setup.length,
            writable: setup.write,
        };
        let plan = window.plan(&wanted, granted.contains(Access::MAP_WRITE))?;
        let SetupPlan::Map { writable, or_read_only, restore } = plan else {
            return Ok(scratch.encode(&Reply::Empty));
        };
        // More than the guest has asked for may be opened, but never more than the gate lets it ask
        // for.
        let open = |write| {
            let permitted = self.permit(header, SetupMapping { write, ..setup })?;
            self.filesystem.open_to_map(permitted, write)
        };
        let file = match open(writable) {
            Err(_) if or_read_only && writable => open(false)?,
            opened => opened?,
        };
        let restore = restore.then(|| open(false)).transpose()?;
        wanted.writable = file.is_writable();
        let pending = window.set_up(wanted, MapFiles { wanted: file, restore })?;
        Ok(Outcome::Deferred(Deferred::for_front_end(header.unique, pending, Then::Answer)))
    }

    /// REMOVEMAPPING.
    pub(super) fn remove_mapping(&self, header: &Header<'_>, remove: RemoveMapping<'_>) -> Answer<Outcome> {
        let Some(window) = &self.window else { return self.unserved(header, remove) };
        let remove = self.permit(header, remove)?.into_inner().operation;
        let pending = window.remove(remove.iter().collect())?;
        Ok(Outcome::Deferred(Deferred::for_front_end(header.unique, pending, Then::Answer)))
    }

    /// The reply to a request about `node`, with the word whether to map what it is about.
    pub(super) fn marked<'r>(&self, terms: Terms<'_>, node: NodeId, mut reply: Reply<'r>) -> Reply<'r> {
        if let Some(dax) = &terms.dax {
            if let Reply::Entry(entry, _) | Reply::Created(Created { entry, .. }, _) = &mut reply {
                entry.attr.dax = self.is_mappable(dax, entry.node, &entry.attr);
            }
            if let Reply::Attr(attr, _) = &mut reply {
                attr.dax = self.is_mappable(dax, node, attr);
            }
        }
        reply
    }

    /// Whether a file is offered for mapping.
    pub(super) fn is_mappable(&self, dax: &Capabilities, node: NodeId, attr: &Attr) -> bool {
        let (Some(window), Ok(granted)) = (&self.window, self.granted_at(node)) else { return false };
        // A store drops no set-user-id or set-group-id bit, and Linux sends no other request when
        // it writes to a mapped file.
        let mode = Mode::from_raw_mode(attr.mode);
        let privileged = mode.contains(Mode::SUID) || mode.contains(Mode::SGID | Mode::XGRP);
        if !window.is_usable() || (privileged && granted.intersects(Access::WRITE | Access::MAP_WRITE)) {
            return false;
        }
        let candidate = Candidate {
            kind: match DirentKind::from_mode(attr.mode) {
                DirentKind::REGULAR => FileKind::Regular,
                _ => FileKind::Other,
            },
            len: attr.size,
            len_may_change: granted.intersects(CHANGES_LENGTH),
            map_read: granted.contains(Access::MAP_READ),
            map_write: granted.contains(Access::MAP_WRITE),
            write: granted.contains(Access::WRITE),
        };
        let settings = window.settings();
        candidate.decide(dax, settings.mode, settings.threshold).is_mappable()
    }
}
