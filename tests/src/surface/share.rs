//! Files for the load.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{Advice, CWD, FileType, Mode, XattrFlags};

use super::guest::{Result, SurfaceError};

/// Length of the file that is read and written, in bytes.
pub(super) const FILE_LEN: u64 = 1 << 20;

/// Number of files in the directory that is listed.
const LISTED: u32 = 40;

/// Fills `share`, an empty folder that must exist already, and drops two files from the page cache.
///
/// # Errors
/// [`SurfaceError::Host`].
pub fn prepare(share: &Path) -> Result<()> {
    fill(share).map_err(SurfaceError::host(format!("cannot fill {}", share.display())))
}

/// Makes the files, directories and links of the load.
fn fill(share: &Path) -> io::Result<()> {
    let at = |name: &str| share.join(name);
    let content: Vec<u8> = (0..FILE_LEN).map(|at| at.to_le_bytes()[0]).collect();
    for name in ["file", "other", "first", "cold"] {
        fs::write(at(name), &content)?;
    }
    for name in ["dir", "list", "moves"] {
        fs::create_dir(at(name))?;
    }
    fs::write(at("dir/inner"), "inside")?;
    for number in 0..LISTED {
        fs::write(at("list").join(format!("entry-{number}")), number.to_string())?;
    }
    symlink("dir/inner", at("link"))?;
    fs::hard_link(at("file"), at("dir/second-name"))?;
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    rustix::fs::setxattr(at("file"), "user.kept", b"value", XattrFlags::empty())?;
    // The caller other than root makes files too.
    for name in ["", "dir", "moves"] {
        fs::set_permissions(at(name), Permissions::from_mode(0o777))?;
    }
    // Only clean pages can be dropped.
    for name in ["first", "cold"] {
        let cold = File::open(at(name))?;
        cold.sync_all()?;
        rustix::fs::fadvise(&cold, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}
