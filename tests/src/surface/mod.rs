//! The load of `cargo xtask surface`: each operation that any virtio-fs guest may send, a few
//! times, and then requests that only a hostile guest sends. Every daemon gets the same requests in
//! the same order. Which of them succeed depends on the daemon and its profile, and is counted.
//!
//! `share` makes the files for the requests; `ordinary` and `hostile` are the requests.

mod guest;
mod hostile;
mod ordinary;
mod share;

use guest::Result;

pub use guest::{Count, SurfaceError, SurfaceGuest};
pub use share::{prepare, prepare_image};

/// Number of rounds of the ordinary requests. More rounds find more of the effects that depend on
/// timing.
const ROUNDS: u32 = 3;

impl SurfaceGuest {
    /// Plays the requests that every daemon gets.
    ///
    /// # Errors
    /// [`SurfaceError::Wire`] if the daemon does not answer.
    pub fn play(&mut self) -> Result<()> {
        for round in 0..ROUNDS {
            ordinary::play(self, round)?;
        }
        hostile::decodable(self)?;
        self.forget_all()
    }

    /// Plays requests that do not decode and malformed chains: only for a daemon that survives
    /// them.
    ///
    /// # Errors
    /// As [`SurfaceGuest::play`].
    pub fn play_malformed(&mut self) -> Result<()> {
        hostile::malformed(self)
    }
}
