//! The rows of the benchmark.

/// Number of outstanding cold reads.
pub(super) const COLD: usize = 32;

/// The measured time divided by this number is the time of the warm-up.
pub(super) const WARM_UP: u32 = 4;

/// Operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// GETATTR of a few hundred known files.
    GetAttr,
    /// LOOKUP of a few hundred known files, as a guest revalidates names.
    LookupHit,
    /// LOOKUP of missing names.
    LookupMiss,
    /// OPEN and RELEASE.
    OpenRelease,
    /// OPEN, READ, FLUSH and RELEASE of files of 1 to 16 KiB.
    SmallFile,
    /// READ from a warm file.
    Read(Blocks),
    /// WRITE over a warm file.
    Write(Blocks),
    /// CREATE, FLUSH, RELEASE, UNLINK and FORGET.
    CreateUnlink,
    /// OPENDIR, READDIRPLUS of 10,000 entries, RELEASEDIR and FORGET of each.
    ReadDirPlus,
    /// The same with 20,000 entries.
    ReadDirPlusMost,
    /// WRITE of 4 KiB and FSYNC.
    Fsync,
    /// 40 % lookup, 25 % getattr, 15 % small files, 10 % reads and 5 % writes of 4 KiB, 5 %
    /// listings of 40 entries.
    Mixed,
    /// GETATTR while 32 READs of 1 MiB outside the page cache are outstanding.
    BesideCold,
}

/// Access pattern of a big file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Length of each request, in bytes.
    pub(crate) len: usize,
    /// Random order; otherwise sequential.
    pub(crate) random: bool,
}

/// Returns an access pattern.
const fn blocks(len: usize, random: bool) -> Blocks {
    Blocks { len, random }
}

impl Row {
    /// Every row with its name, in the order of measurement.
    pub(crate) const ALL: [(&str, Self); 22] = [
        ("getattr", Self::GetAttr),
        ("lookup-hit", Self::LookupHit),
        ("lookup-miss", Self::LookupMiss),
        ("open-release", Self::OpenRelease),
        ("small-file", Self::SmallFile),
        ("read-4k-rand", Self::Read(blocks(4 << 10, true))),
        ("read-4k-seq", Self::Read(blocks(4 << 10, false))),
        ("read-128k-rand", Self::Read(blocks(128 << 10, true))),
        ("read-128k-seq", Self::Read(blocks(128 << 10, false))),
        ("read-1m-rand", Self::Read(blocks(1 << 20, true))),
        ("read-1m-seq", Self::Read(blocks(1 << 20, false))),
        ("write-4k-rand", Self::Write(blocks(4 << 10, true))),
        ("write-4k-seq", Self::Write(blocks(4 << 10, false))),
        ("write-128k-rand", Self::Write(blocks(128 << 10, true))),
        ("write-128k-seq", Self::Write(blocks(128 << 10, false))),
        ("write-1m-rand", Self::Write(blocks(1 << 20, true))),
        ("write-1m-seq", Self::Write(blocks(1 << 20, false))),
        ("create-unlink", Self::CreateUnlink),
        ("readdirplus", Self::ReadDirPlus),
        ("fsync", Self::Fsync),
        ("mixed", Self::Mixed),
        ("getattr-beside-cold", Self::BesideCold),
    ];

    /// Rows that only `bench --prepared` measures.
    pub(crate) const MORE: [(&str, Self); 1] = [("readdirplus-20000", Self::ReadDirPlusMost)];

    /// Returns all rows that have a name.
    fn named() -> impl Iterator<Item = (&'static str, Self)> {
        Self::ALL.into_iter().chain(Self::MORE)
    }

    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        Self::named().find(|(_, row)| *row == self).map_or("", |(name, _)| name)
    }

    /// Returns the depths at which the row is measured: its fixed depth, or else `wanted`.
    pub(crate) fn depths(self, wanted: &[usize]) -> Vec<usize> {
        let own = self.slots(0);
        if own == 0 { wanted.to_vec() } else { vec![own] }
    }

    /// Returns the measured time of the row, where `time` is that of most rows. Long operations
    /// need more time for a distribution.
    pub(super) fn time(self, time: std::time::Duration) -> std::time::Duration {
        if self == Self::BesideCold {
            time * 8
        } else if self == Self::ReadDirPlusMost {
            time * 12
        } else if matches!(self, Self::ReadDirPlus | Self::Fsync) {
            time * 3
        } else {
            time
        }
    }

    /// Returns the number of slots in flight at `depth`.
    pub(super) const fn slots(self, depth: usize) -> usize {
        match self {
            Self::BesideCold => COLD + 1,
            // A listing of 10,000 entries is many requests in itself.
            Self::ReadDirPlus | Self::ReadDirPlusMost => 1,
            Self::GetAttr
            | Self::LookupHit
            | Self::LookupMiss
            | Self::OpenRelease
            | Self::SmallFile
            | Self::Read(_)
            | Self::Write(_)
            | Self::CreateUnlink
            | Self::Fsync
            | Self::Mixed => depth,
        }
    }
}

impl std::str::FromStr for Row {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::named().find(|(known, _)| *known == name).map(|(_, row)| row).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("there is no row `{name}`; the rows are {}", names.join(", "))
        })
    }
}

/// Position of a client thread among all client threads.
#[derive(Clone, Debug)]
pub(super) struct ThreadPosition {
    /// Number of the thread, from 0.
    pub(super) number: usize,
    /// Number of threads.
    pub(super) count: usize,
    /// Directory of the share on the host.
    pub(super) share: std::path::PathBuf,
}
