//! Invariants for any bytes as an image of a prepared share, and any inode number:
//!
//! 1. The reader does not panic.
//! 2. Each call makes a bounded number of copies. `daemon/erofs/src/walk.rs` has the bounds.
//! 3. Each extent is inside the file, and inside the image or a device.
//! 4. Names, targets of symbolic links and positions in directories have valid forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinhole_erofs::walk::walk;
use pinhole_fuzz::image::Input;

fuzz_target!(|input: &[u8]| {
    if let Some(input) = Input::read(input) {
        walk(input.image(), input.nids());
    }
});
