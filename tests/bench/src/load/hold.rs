//! A guest that knows many files and does nothing: for what they cost the daemon while it waits.

use std::fs;
use std::io;
use std::path::Path;

use super::ask::{Ask, Data, ENTRY_LEN, Expect};
use super::error::LoadError;
use super::init;
use super::machine::Machine;
use super::player::Player;
use pinhole_tests::frontend::frame::opcode;

/// The node of the share itself.
const ROOT: u64 = 1;

/// Connects, says INIT, looks up `inodes` files and folders that lie in `share`, and forgets none.
/// `pause` is called with what has been reached, and is where the caller measures: after INIT, and
/// after the lookups.
///
/// # Errors
/// [`LoadError::Lookup`] with the number of the one that failed; an error of the connection; what
/// `pause` returns.
pub(crate) fn hold(
    socket: &Path,
    share: &Path,
    inodes: usize,
    pause: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Result<(), LoadError> {
    let machine = Machine::connect(socket, 1)?;
    init(&machine)?;
    let mut pause = |reached: &str| pause(reached).map_err(LoadError::host("cannot pause"));
    pause("connected")?;
    let mut state = machine.state(1)?;
    let mut player = Player::new(&machine, 1, &mut state)?;
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

fn look_up(player: &mut Player<'_>, parent: u64, name: &[u8]) -> Result<u64, LoadError> {
    player.message.start(opcode::LOOKUP, parent).name(name);
    player.ask(Ask { answer_len: ENTRY_LEN, data: Data::None, expect: Expect::Body(ENTRY_LEN) })?.u64(0)
}
