//! INIT: what the two sides agree on, as a pure function of what each can do.

use crate::{Dialect, Errno, InitFlags, abi};

/// Pages that a guest puts into one request unless `MAX_PAGES` says otherwise (`FUSE_DEFAULT_MAX_PAGES_PER_REQ`).
const PAGES_DEFAULT: u32 = 32;
/// Bytes in a page of an x86-64 guest.
const PAGE_LEN: u32 = 4096;
/// The oldest guest that is served: Linux 5.0. Every struct but two has had its present layout since then.
const MINOR_MIN: u32 = 27;
/// The first version that counts its extensions in the header; before it a security context cannot be told apart.
const MINOR_EXTENSIONS: u32 = 38;

/// What the guest says in INIT. All zero after `minor` when `major` is not 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitRequest {
    /// The guest's major version.
    pub major: u32,
    /// The guest's minor version.
    pub minor: u32,
    /// Bytes that the guest may read ahead.
    pub max_readahead: u32,
    /// What the guest can do; unknown bits are kept.
    pub flags: InitFlags,
}

/// What the server is ready to agree to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitOffer {
    /// The flags that the server wants, each only if the guest has it too.
    pub flags: InitFlags,
    /// Bytes that the guest may read ahead.
    pub max_readahead: u32,
    /// Bytes in one WRITE, and by `MAX_PAGES` in any request; a multiple of 4,096.
    pub max_write: u32,
    /// Requests that the guest may have in the background.
    pub max_background: u16,
    /// How many of them the guest takes for congestion.
    pub congestion_threshold: u16,
    /// Nanoseconds in the finest timestamp step; a power of ten.
    pub time_gran: u32,
    /// log2 of the alignment of DAX mappings, at most 21 for Linux; `None` drops `MAP_ALIGNMENT`.
    pub map_alignment: Option<u16>,
    /// File systems that may lie above this one, for PASSTHROUGH.
    pub max_stack_depth: u32,
    /// Seconds after which the guest gives up, for `REQUEST_TIMEOUT`.
    pub request_timeout: u16,
}

/// The answer to INIT (`fuse_init_out`). Not sending a field means 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of InitOffer as agreed")]
pub struct InitReply {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: InitFlags,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    pub time_gran: u32,
    /// Pages in one request; only read with `MAX_PAGES`.
    pub max_pages: u16,
    /// log2; only read with `MAP_ALIGNMENT`.
    pub map_alignment: u16,
    pub max_stack_depth: u32,
    pub request_timeout: u16,
}

/// What INIT led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The answer to send.
    pub reply: InitReply,
    /// What both sides do from now on.
    pub flags: InitFlags,
    /// How later messages are laid out.
    pub dialect: Dialect,
    /// The minor version that both speak.
    pub minor: u32,
    /// False where the guest speaks a newer major version: it has been told ours and sends INIT again.
    pub ready: bool,
}

impl Negotiated {
    /// What both sides do, from what each can.
    ///
    /// # Errors
    /// EPROTO for a guest older than 7.27.
    pub fn negotiate(request: &InitRequest, offer: &InitOffer) -> Result<Self, Errno> {
        if request.major > abi::FUSE_KERNEL_VERSION {
            return Ok(Self::only_version());
        }
        if request.major < abi::FUSE_KERNEL_VERSION || request.minor < MINOR_MIN {
            return Err(Errno::EPROTO);
        }
        let flags = common_flags(request, offer);
        let max_write = if flags.contains(InitFlags::MAX_PAGES) {
            offer.max_write
        } else {
            offer.max_write.min(PAGES_DEFAULT.saturating_mul(PAGE_LEN))
        };
        let minor = request.minor.min(abi::FUSE_KERNEL_MINOR_VERSION);
        let when = |flag| flags.contains(flag);
        let reply = InitReply {
            major: abi::FUSE_KERNEL_VERSION,
            minor,
            max_readahead: offer.max_readahead.min(request.max_readahead),
            flags,
            max_background: offer.max_background,
            congestion_threshold: offer.congestion_threshold,
            max_write,
            time_gran: offer.time_gran,
            max_pages: if when(InitFlags::MAX_PAGES) { pages(max_write) } else { 0 },
            map_alignment: if when(InitFlags::MAP_ALIGNMENT) { offer.map_alignment.unwrap_or(0) } else { 0 },
            max_stack_depth: if when(InitFlags::PASSTHROUGH) { offer.max_stack_depth } else { 0 },
            request_timeout: if when(InitFlags::REQUEST_TIMEOUT) { offer.request_timeout } else { 0 },
        };
        let dialect = Dialect { setxattr_ext: when(InitFlags::SETXATTR_EXT) };
        Ok(Self { reply, flags, dialect, minor, ready: true })
    }

    fn only_version() -> Self {
        let (major, minor) = (abi::FUSE_KERNEL_VERSION, abi::FUSE_KERNEL_MINOR_VERSION);
        Self {
            reply: InitReply { major, minor, ..InitReply::default() },
            flags: InitFlags::empty(),
            dialect: Dialect::default(),
            minor,
            ready: false,
        }
    }
}

/// What both sides do, from what each can; the free form of [`Negotiated::negotiate`].
///
/// # Errors
/// EPROTO for a guest older than 7.27.
pub fn negotiate(request: &InitRequest, offer: &InitOffer) -> Result<Negotiated, Errno> {
    Negotiated::negotiate(request, offer)
}

fn common_flags(request: &InitRequest, offer: &InitOffer) -> InitFlags {
    // INIT_EXT only says that the upper word exists, which is this crate's business and not the offer's.
    let mut wanted = offer.flags | InitFlags::INIT_EXT;
    wanted.remove(InitFlags::INIT_RESERVED);
    if offer.map_alignment.is_none() {
        wanted.remove(InitFlags::MAP_ALIGNMENT);
    }
    if request.minor < MINOR_EXTENSIONS {
        wanted.remove(InitFlags::SECURITY_CTX | InitFlags::CREATE_SUPP_GROUP);
    }
    let mut common = request.flags & wanted & InitFlags::all();
    if !common.contains(InitFlags::INIT_EXT) {
        common &= InitFlags::from_bits_retain(u64::from(u32::MAX));
    }
    common
}

fn pages(max_write: u32) -> u16 {
    u16::try_from(max_write.div_ceil(PAGE_LEN)).unwrap_or(u16::MAX).max(1)
}
