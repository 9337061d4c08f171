//! One round of the test of close-to-open: several clients write and read whole files at the same
//! time. Then a checker reads the results.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Instant;

use pinhole_tests::linearizability::reopened::{FileAccess, check};

use super::play::Random;

/// The test files. A writer replaces the first one by another file, and truncates and rewrites the
/// second one.
const FILES: [&str; 2] = ["replaced", "rewritten"];

/// Returns the content that the write with this number stores. It repeats the number, so that a
/// read shows which write it saw.
fn text(number: u64) -> String {
    format!("{number} ").repeat(usize::try_from(number * 37 % 1500 + 1).unwrap())
}

/// Writes and reads with their contents, for each of [`FILES`].
#[derive(Default)]
pub(crate) struct FileAccesses {
    stored: [Vec<FileAccess<String>>; 2],
    seen: [Vec<FileAccess<String>>; 2],
}

/// Runs one client in each of `folders`. Each client writes or reads `count` times.
pub(crate) fn play(share: &Path, folders: &[PathBuf], (seed, count): (u64, u64)) -> FileAccesses {
    let began = Instant::now();
    let now = || u64::try_from(began.elapsed().as_nanos()).unwrap();
    let (next, start, rewriting) = (AtomicU64::new(1), Barrier::new(folders.len()), Mutex::new(()));
    let mut all = FileAccesses::default();
    for (name, stored) in FILES.iter().zip(&mut all.stored) {
        let called = now();
        fs::write(share.join(name), text(0)).unwrap();
        stored.push(FileAccess { client: folders.len(), called, returned: now(), value: text(0) });
    }
    let turn = |(client, folder): (usize, &Path), random: &mut Random, mine: &mut FileAccesses| {
        let which = usize::try_from(random.below(2)).unwrap();
        let path = folder.join(FILES[which]);
        if random.below(3) > 0 {
            let called = now();
            let value = io::read_to_string(File::open(&path).unwrap()).unwrap();
            mine.seen[which].push(FileAccess { client, called, returned: now(), value });
            return;
        }
        let number = next.fetch_add(1, Ordering::SeqCst);
        let value = text(number);
        // Only one client writes at a time: two concurrent writers of one file leave a mixture on
        // any file system.
        let alone = rewriting.lock().unwrap();
        let called = now();
        if which == 0 {
            let new = folder.join(format!("new{number}"));
            fs::write(&new, &value).unwrap();
            fs::rename(new, path).unwrap();
        } else {
            fs::write(path, &value).unwrap();
        }
        mine.stored[which].push(FileAccess { client, called, returned: now(), value });
        drop(alone);
    };
    std::thread::scope(|scope| {
        let players = folders.iter().enumerate().map(|(client, folder)| {
            let (turn, start) = (&turn, &start);
            scope.spawn(move || {
                let (mut mine, mut random) = (FileAccesses::default(), Random(seed ^ (client as u64) << 32));
                start.wait();
                (0..count).for_each(|_| turn((client, folder), &mut random, &mut mine));
                mine
            })
        });
        for player in players.collect::<Vec<_>>() {
            all.add(player.join().unwrap());
        }
    });
    all
}

impl FileAccesses {
    fn add(&mut self, other: Self) {
        self.stored.iter_mut().zip(other.stored).for_each(|(mine, theirs)| mine.extend(theirs));
        self.seen.iter_mut().zip(other.seen).for_each(|(mine, theirs)| mine.extend(theirs));
    }

    /// Checks that each open saw the data that was closed before it.
    ///
    /// # Errors
    /// Fails with the first open that did not.
    pub(crate) fn check_calls(&self) -> Result<(), String> {
        let [replaced, rewritten] = &self.stored;
        let [seen, seen_rewritten] = &self.seen;
        // A read during a rewrite of the file may return a part of it, so it is not checked.
        let is_undisturbed = |one: &&FileAccess<String>| {
            rewritten.iter().all(|other| one.returned < other.called || other.returned < one.called)
        };
        let undisturbed: Vec<_> = seen_rewritten.iter().filter(is_undisturbed).cloned().collect();
        let short = |text: String| text.chars().take(2000).collect::<String>();
        check(replaced, seen).map_err(|late| short(late.to_string()))?;
        check(rewritten, &undisturbed).map_err(|late| short(late.to_string()))
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.iter().chain(&self.stored).map(Vec::len).sum()
    }
}
