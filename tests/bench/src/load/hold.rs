//! Guest that knows many files and waits, so that the caller can measure their cost in the daemon.

use std::fs;
use std::io;
use std::path::Path;

use super::ask::{Ask, ENTRY_LEN};
use super::error::LoadError;
use super::init;
use super::player::Player;
use super::rows::listing::list;
use super::vmm::Vmm;
use pinhole_tests::frontend::frame::opcode;

/// Node id of the root of the share.
const ROOT: u64 = 1;

/// How the guest gets to know files.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Learning<'s> {
    /// It looks up this number of files and folders of a share, whose names it reads on the host.
    Lookups { share: &'s Path, inodes: usize },
    /// It lists all folders of the share with READDIRPLUS.
    Listing,
}

/// Connects, sends INIT, gets to know files, and forgets none. Calls `pause` after INIT and at the
/// end, so that the caller can measure. The argument of `pause` says what has been reached.
///
/// # Errors
/// [`LoadError::Lookup`] with the number of the failed LOOKUP, an error of the connection, or the
/// error of `pause`.
pub(crate) fn hold(
    socket: &Path,
    learning: Learning<'_>,
    pause: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<(), LoadError> {
    let vmm = Vmm::connect(socket, 1)?;
    init(&vmm)?;
    let mut pause = |reached: &str| pause(reached).map_err(LoadError::host("cannot pause"));
    pause("connected")?;
    let mut state = vmm.state(1)?;
    let mut player = Player::new(&vmm, 1, &mut state)?;
    let known = match learning {
        Learning::Lookups { share, inodes } => look_up_all(&mut player, share, inodes)?,
        Learning::Listing => list_all(&mut player)?,
    };
    pause(&format!("holds {known}"))
}

/// Lists all folders. Returns the number of files and folders.
fn list_all(player: &mut Player<'_>) -> Result<usize, LoadError> {
    let (mut folders, mut known) = (vec![ROOT], 0);
    while let Some(folder) = folders.pop() {
        let listed = list(player, folder)?;
        known += listed.len();
        folders.extend(listed.iter().filter(|entry| entry.is_folder).map(|entry| entry.node));
    }
    Ok(known)
}

/// Looks up `inodes` files and folders of `share`. Returns their number.
fn look_up_all(player: &mut Player<'_>, share: &Path, inodes: usize) -> Result<usize, LoadError> {
    let mut folders = vec![(ROOT, share.to_path_buf())];
    let mut known = 0;
    while let Some((parent, path)) = folders.pop() {
        for entry in fs::read_dir(&path).map_err(LoadError::host("cannot list the share"))? {
            if known == inodes {
                return Ok(known);
            }
            let entry = entry.map_err(LoadError::host("cannot list the share"))?;
            let kind = entry.file_type().map_err(LoadError::host("cannot look at the share"))?;
            let node = look_up(player, parent, entry.file_name().as_encoded_bytes())
                .map_err(|source| LoadError::Lookup { number: known, source: Box::new(source) })?;
            known += 1;
            if kind.is_dir() {
                folders.push((node, entry.path()));
            }
        }
    }
    if known < inodes {
        return Err(LoadError::Device(format!("the share has {known} files and folders, not {inodes}")));
    }
    Ok(known)
}

/// Looks up `name` in `parent` and returns its node id.
fn look_up(player: &mut Player<'_>, parent: u64, name: &[u8]) -> Result<u64, LoadError> {
    player.message.start(opcode::LOOKUP, parent).name(name);
    player.ask(Ask::body(ENTRY_LEN))?.u64(0)
}
