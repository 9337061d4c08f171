//! INIT: computes the common features and limits of a session from the guest's request and the
//! server's offer.

use crate::{Errno, InitFlags, abi};

/// Maximum number of pages of one request without `MAX_PAGES` (`FUSE_DEFAULT_MAX_PAGES_PER_REQ`).
const PAGES_DEFAULT: u32 = 32;
/// Length of a page of an x86-64 guest in bytes.
const PAGE_LEN: u32 = 4096;
/// The oldest minor version that is served (Linux 5.0). Since then only `fuse_setxattr_in` and
/// `fuse_init_in` have grown.
const MINOR_MIN: u32 = 27;
/// The first minor version in which the request header has the length of the extensions. In earlier
/// versions, a security context cannot be told apart from the rest of the body.
const MINOR_EXTENSIONS: u32 = 38;

/// The negotiated features that change the layout of messages. The default applies before INIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// SETXATTR has its 16-byte layout (`FUSE_SETXATTR_EXT`).
    pub setxattr_ext: bool,
    /// LOOKUP may have the name "." or ".." (`FUSE_EXPORT_SUPPORT`). Without it, such a name is an
    /// error as in every other request.
    pub lookup_dots: bool,
}

impl Dialect {
    /// Returns the layout of messages with these negotiated features.
    pub const fn of(negotiated: InitFlags) -> Self {
        Self {
            setxattr_ext: negotiated.contains(InitFlags::SETXATTR_EXT),
            lookup_dots: negotiated.contains(InitFlags::EXPORT_SUPPORT),
        }
    }
}

/// The INIT request of a guest. If `major` is not 7, the fields after `minor` are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitRequest {
    /// The guest's major version.
    pub major: u32,
    /// The guest's minor version.
    pub minor: u32,
    /// Maximum number of bytes that the guest wants to read ahead.
    pub max_readahead: u32,
    /// Features that the guest supports. Unknown bits are kept.
    pub flags: InitFlags,
}

/// The features and limits that the server offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitOffer {
    /// Features that the server wants. A feature is used only if the guest supports it too.
    pub flags: InitFlags,
    /// Maximum number of bytes that the guest may read ahead.
    pub max_readahead: u32,
    /// Maximum number of bytes in one WRITE, and with `MAX_PAGES` in any request. A multiple of
    /// 4,096.
    pub max_write: u32,
    /// Maximum number of requests that the guest may have in the background.
    pub max_background: u16,
    /// Number of background requests from which the guest regards the session as congested.
    pub congestion_threshold: u16,
    /// Granularity of timestamps in nanoseconds, a power of ten.
    pub time_gran: u32,
    /// log2 of the alignment of DAX mappings in bytes. Linux accepts at most 21. `None` drops
    /// `MAP_ALIGNMENT`.
    pub map_alignment: Option<u16>,
    /// Number of file systems that may be stacked above this one, for PASSTHROUGH.
    pub max_stack_depth: u32,
    /// Seconds after which the guest gives up on a request, for `REQUEST_TIMEOUT`.
    pub request_timeout: u16,
}

/// The reply to INIT (`fuse_init_out`). A field whose feature was not agreed on is 0.
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
    /// Maximum number of pages in one request. The guest reads this field only with `MAX_PAGES`.
    pub max_pages: u16,
    /// log2 of the alignment in bytes. The guest reads this field only with `MAP_ALIGNMENT`.
    pub map_alignment: u16,
    pub max_stack_depth: u32,
    pub request_timeout: u16,
}

/// The result of INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The reply to send.
    pub reply: InitReply,
    /// Features that both sides use from now on.
    pub flags: InitFlags,
    /// Layout of later messages.
    pub dialect: Dialect,
    /// The minor version that both sides use.
    pub minor: u32,
    /// Whether the session can begin. False if the guest has a newer major version: the guest gets
    /// our version in the reply and sends INIT again.
    pub ready: bool,
}

impl Negotiated {
    /// Computes the common features and limits of guest and server.
    ///
    /// # Errors
    /// EPROTO for a guest older than 7.27.
    pub fn negotiate(request: &InitRequest, offer: &InitOffer) -> Result<Self, Errno> {
        if request.major > abi::FUSE_KERNEL_VERSION {
            return Ok(Self::version_only());
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
        let agreed = |flag| flags.contains(flag);
        let reply = InitReply {
            major: abi::FUSE_KERNEL_VERSION,
            minor,
            max_readahead: offer.max_readahead.min(request.max_readahead),
            flags,
            max_background: offer.max_background,
            congestion_threshold: offer.congestion_threshold,
            max_write,
            time_gran: offer.time_gran,
            max_pages: if agreed(InitFlags::MAX_PAGES) { pages(max_write) } else { 0 },
            map_alignment: if agreed(InitFlags::MAP_ALIGNMENT) {
                offer.map_alignment.unwrap_or(0)
            } else {
                0
            },
            max_stack_depth: if agreed(InitFlags::PASSTHROUGH) { offer.max_stack_depth } else { 0 },
            request_timeout: if agreed(InitFlags::REQUEST_TIMEOUT) { offer.request_timeout } else { 0 },
        };
        let dialect = Dialect::of(flags);
        Ok(Self { reply, flags, dialect, minor, ready: true })
    }

    /// Returns the reply to a guest with a newer major version: our version and nothing else.
    fn version_only() -> Self {
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

/// Computes the common features and limits; the free form of [`Negotiated::negotiate`].
///
/// # Errors
/// EPROTO for a guest older than 7.27.
pub fn negotiate(request: &InitRequest, offer: &InitOffer) -> Result<Negotiated, Errno> {
    Negotiated::negotiate(request, offer)
}

/// Returns the features that the guest supports, the server wants and this crate can encode.
fn common_flags(request: &InitRequest, offer: &InitOffer) -> InitFlags {
    // INIT_EXT only says that the upper flag word exists. This crate decides that, not the offer.
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

/// Returns the number of pages that hold `max_write` bytes, at least 1.
fn pages(max_write: u32) -> u16 {
    u16::try_from(max_write.div_ceil(PAGE_LEN)).unwrap_or(u16::MAX).max(1)
}
