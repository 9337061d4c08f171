//! Guest that knows many files and waits, so that the caller can measure their cost in the daemon.

use std::fs;
use std::io;
use std::path::Path;

use super::ask::{Ask, Data, ENTRY_LEN, Expect};
use super::error::LoadError;
use super::init;
use super::player::Player;
use super::vmm::Vmm;
use pinhole_tests::frontend::frame::opcode;

/// Node id of the root of the share.
const ROOT: u64 = 1;

/// Connects, sends INIT, looks up `inodes` files and folders of `share`, and forgets none. Calls
/// `pause` after INIT and after the lookups, so that the caller can measure. The argument of
/// `pause` says what has been reached.
///
/// # Errors
/// [`LoadError::Lookup`] with the number of the failed LOOKUP, an error of the connection, or the
/// error of `pause`.
pub(crate) fn hold(
    socket: &Path,
    share: &Path,
    inodes: usize,
    pause: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<(), LoadError> {
    let vmm = Vmm::connect(socket, 1)?;
    init(&vmm)?;
    let mut pause = |reached: &str| pause(reached).map_err(LoadError::host("cannot pause"));
    pause("connected")?;
    let mut state = vmm.state(1)?;
    let mut player = Player::new(&vmm, 1, &mut state)?;
    let mut folders = vec![(ROOT, share.to_path_buf())];
    let mut known = 0;
    while let Some((parent, path)) = folders.pop() {
        for entry in fs::read_dir(&path).map_err(LoadError::host("cannot list the share"))? {
            if known == inodes {
                return pause(&format!("holds {known}"));
            }
            let entry = entry.map_err(LoadError::host("cannot list the share"))?;
            let kind = entry.file_type().map_err(LoadError::host("cannot look at the share"))?;
            let node = look_up(&mut player, parent, entry.file_name().as_encoded_bytes())
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
    pause(&format!("holds {known}"))
}

/// Looks up `name` in `parent` and returns its node id.
fn look_up(player: &mut Player<'_>, parent: u64, name: &[u8]) -> Result<u64, LoadError> {
    player.message.start(opcode::LOOKUP, parent).name(name);
    player.ask(Ask { reply_len: ENTRY_LEN, data: Data::None, expect: Expect::Body(ENTRY_LEN) })?.u64(0)
}
