//! Requests that concern the DAX window: INIT of a guest that wants to map, SETUPMAPPING,
//! REMOVEMAPPING, and the mark of files that are offered for mapping.

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

/// Accesses with which a guest can change the length of a file.
const CHANGES_LENGTH: Access = Access::WRITE
    .union(Access::APPEND)
    .union(Access::TRUNCATE)
    .union(Access::FALLOCATES)
    .union(Access::COPY_RANGE);

impl<F: FileSystem> Session<F> {
    /// Begins an INIT. If the guest wants to map, the reply waits until the front-end is ready.
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

    /// Opens the window for the guest of a prepared generation. Without a generation, begins that
    /// of a guest that does not map.
    ///
    /// # Errors
    /// EIO if a later INIT has replaced this one. It then changes nothing.
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

    /// Returns the features that the reply to INIT offers.
    pub(super) fn offer(&self, dax: Option<&Capabilities>, request: &InitRequest) -> InitOffer {
        let mut offer = self.options.offer;
        // Without HANDLE_KILLPRIV_V2, the guest drops set-user-id and set-group-id with the SETATTR
        // of a truncation. If O_TRUNC is part of OPEN, Linux sends no such SETATTR.
        if !(offer.flags & request.flags).contains(InitFlags::HANDLE_KILLPRIV_V2) {
            offer.flags.remove(InitFlags::ATOMIC_O_TRUNC);
        }
        offer.map_alignment = dax.and_then(|_| u16::try_from(ALIGNMENT_SHIFT).ok());
        offer.flags.set(InitFlags::MAP_ALIGNMENT | InitFlags::HAS_INODE_DAX, dax.is_some());
        offer
    }

    /// Carries out SETUPMAPPING. Opens the file here, so that the thread of the back channel opens
    /// no files.
    pub(super) fn set_up_mapping(
        &self,
        header: &Header<'_>,
        setup: SetupMapping,
        scratch: &mut Scratch,
    ) -> Answer<Outcome> {
        let Some(window) = &self.window else { return self.unserved(header, setup) };
        drop(self.permit(header, setup)?);
        if self.filesystem.node(header.node.0).is_none() {
            // The guest has forgotten the node, even if the node still exists.
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
        // The file may be opened with more rights than the guest has asked for, but only with
        // rights that the policy permits.
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

    /// Carries out REMOVEMAPPING.
    pub(super) fn remove_mapping(&self, header: &Header<'_>, remove: RemoveMapping<'_>) -> Answer<Outcome> {
        let Some(window) = &self.window else { return self.unserved(header, remove) };
        let remove = self.permit(header, remove)?.into_inner().operation;
        let pending = window.remove(remove.iter().collect())?;
        Ok(Outcome::Deferred(Deferred::for_front_end(header.unique, pending, Then::Answer)))
    }

    /// Leaves the mark of a file in a reply if it is offered for mapping. `node` is the node of the
    /// request.
    pub(super) fn marked<'r>(&self, terms: Terms<'_>, node: NodeId, mut reply: Reply<'r>) -> Reply<'r> {
        if let Reply::Entry(entry, _) | Reply::Created(Created { entry, .. }, _) = &mut reply {
            entry.attr.dax = self.is_mappable(terms, entry.node, &entry.attr);
        }
        if let Reply::Attr(attr, _) = &mut reply {
            attr.dax = self.is_mappable(terms, node, attr);
        }
        reply
    }

    /// Returns whether a file is offered for mapping: the file system consents, the guest asks for
    /// each inode, and neither policy nor window forbids it.
    pub(super) fn is_mappable(&self, terms: Terms<'_>, node: NodeId, attr: &Attr) -> bool {
        let Some(dax) = terms.dax.as_ref().filter(|_| attr.dax) else { return false };
        let (Some(window), Ok(granted)) = (&self.window, self.granted_at(node)) else { return false };
        // A store to a mapped file does not drop the set-user-id and set-group-id bits, and Linux
        // sends no request for it.
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
