//! The load of `cargo xtask surface`: each operation that any virtio-fs guest may send, a few
//! times, and then requests that only a hostile guest sends. Every daemon gets the same requests in
//! the same order. Which of them succeed depends on the daemon and its profile, and is counted.
//!
//! `share` makes the files that the requests are about; `ordinary` and `hostile` are the requests.

mod guest;
mod hostile;
mod ordinary;
mod share;

use guest::Result;

pub use guest::{Count, SurfaceError, SurfaceGuest};
pub use share::prepare;

/// How often the ordinary part is played. What depends on timing has so many chances to happen.
const ROUNDS: u32 = 3;

impl SurfaceGuest {
    /// Plays all that every daemon gets.
    ///
    /// # Errors
    /// [`SurfaceError::Wire`] where the daemon does not answer.
    pub fn play(&mut self) -> Result<()> {
        for round in 0..ROUNDS {
            ordinary::play(self, round)?;
        }
        hostile::decodable(self)?;
        self.forget_all()
    }

    /// Plays what does not decode and chains that are malformed: only for a daemon that outlives
    /// them.
    ///
    /// # Errors
    /// As [`SurfaceGuest::play`].
    pub fn play_malformed(&mut self) -> Result<()> {
        hostile::malformed(self)
    }
}
