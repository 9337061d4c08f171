//! Rows of the time to the ready line, with an image of many inodes and with an empty one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pinhole_tests::daemon::Daemon;

use super::{images, source};
use crate::bench::cost::median;
use crate::bench::rows::Rows;
use crate::step::{Failure, Outcome};

/// Row of the time that the inodes add.
pub(super) const BEYOND: &str = "start: 1,000,000 inodes beyond an empty image, ms";

/// Number of inodes of the big image.
const INODES: u32 = 1_000_000;

/// Number of starts with each image in a turn, whose median counts.
const STARTS: u32 = 20;

/// Makes both images and measures in turns.
pub(super) fn measure(program: &Path, folder: &Path, turns: usize, rows: &mut Rows) -> Outcome {
    let (big, empty) = (folder.join("million.erofs"), folder.join("empty.erofs"));
    // The root is the last inode.
    let made = images::prepare_tar(program, &big, &mut |out| source::write_tar(INODES - 1, out))?;
    if made.inodes != u64::from(INODES) {
        return Err(Failure::new(format!("the image has {} inodes, not {INODES}", made.inodes)));
    }
    let nothing = folder.join("nothing");
    fs::create_dir(&nothing).map_err(Failure::io("cannot create an empty directory"))?;
    images::prepare(program, &nothing, &empty)?;
    for _ in 0..turns {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..STARTS {
            for (image, times) in [&empty, &big].into_iter().zip(&mut times) {
                times.push(time_to_ready(program, image)?);
            }
        }
        let [empty, big] = times.map(|times| median(times).as_secs_f64() * 1e3);
        rows.add("start: empty image to ready, ms", empty);
        rows.add("start: 1,000,000 inodes to ready, ms", big);
        rows.add(BEYOND, big - empty);
    }
    Ok(())
}

fn time_to_ready(program: &Path, image: &Path) -> Outcome<Duration> {
    let time = Daemon::of_image_at(program, image).time_to_ready();
    time.map_err(|error| Failure::new(error.to_string()))
}
