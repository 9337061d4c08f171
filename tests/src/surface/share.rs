//! Files for the load.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Makes an image of `share`, which [`prepare`] has filled, with the `pinhole` at `program`. Drops
/// the data of the image from the page cache. Returns the path of the image, which is in a new
/// folder beside `share`.
///
/// # Errors
/// [`SurfaceError::Host`] or [`SurfaceError::Unfit`].
pub fn prepare_image(program: &Path, share: &Path) -> Result<PathBuf> {
    let folder = share.with_extension("image");
    let failed = |what: &str| SurfaceError::host(format!("cannot {what} {}", folder.display()));
    fs::create_dir(&folder).map_err(failed("create"))?;
    let image = folder.join("image");
    let mut command = Command::new(program);
    let made = command.arg("prepare").arg(share).arg("-o").arg(&image).output();
    let made = made.map_err(SurfaceError::host("cannot start `pinhole prepare`"))?;
    if !made.status.success() {
        let text = String::from_utf8_lossy(&made.stderr).into_owned();
        return Err(SurfaceError::Unfit(format!("`pinhole prepare` failed: {text}")));
    }
    for entry in fs::read_dir(&folder).map_err(failed("list"))? {
        let path = entry.map_err(failed("list"))?.path();
        drop_from_cache(&path).map_err(failed("drop from the page cache"))?;
    }
    Ok(image)
}

/// Drops a file from the page cache. Only clean pages can be dropped.
fn drop_from_cache(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(())
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
    ["first", "cold"].iter().try_for_each(|name| drop_from_cache(&at(name)))
}
