//! The settings of a device, decided by the command line.

use super::sleep::PollBudget;
use crate::file_id::DeviceId;
use crate::limits::REQUEST_QUEUES_MAX;
use crate::threads::ThreadSetup;

/// Bytes of the tag in the configuration space (virtio 1.3, 5.11.4).
const TAG_LEN: usize = 36;

/// Bytes of the configuration space: tag, `num_request_queues`, `notify_buf_size`.
const CONFIG_LEN: usize = 44;

/// The name by which a guest mounts the share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag([u8; TAG_LEN]);

/// Reason why a tag is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// The text is empty.
    #[error("a tag has at least one character")]
    Empty,
    /// The text is longer than the field of the configuration space.
    #[error("a tag has at most {TAG_LEN} bytes, this one {0}")]
    TooLong(usize),
    /// The text contains a NUL, which would end the tag.
    #[error("a tag has no NUL")]
    Nul,
}

impl Tag {
    /// Makes a tag of 1 to 36 bytes.
    ///
    /// # Errors
    /// [`TagError`] with the reason.
    pub fn new(text: &str) -> Result<Self, TagError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(TagError::Empty);
        }
        if bytes.contains(&0) {
            return Err(TagError::Nul);
        }
        let mut padded = [0; TAG_LEN];
        let place = padded.get_mut(..bytes.len()).ok_or(TagError::TooLong(bytes.len()))?;
        place.copy_from_slice(bytes);
        Ok(Self(padded))
    }
}

/// The number of request queues of a device: 1 to [`REQUEST_QUEUES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestQueues(u8);

/// Eight request queues.
impl Default for RequestQueues {
    fn default() -> Self {
        Self(8)
    }
}

/// An invalid number of request queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device has 1 to {REQUEST_QUEUES_MAX} request queues, not {0}")]
pub struct RequestQueuesError(usize);

impl RequestQueues {
    /// Checks a number of request queues.
    ///
    /// # Errors
    /// [`RequestQueuesError`] if the number is 0 or too large.
    pub fn new(count: usize) -> Result<Self, RequestQueuesError> {
        match u8::try_from(count) {
            Ok(narrow) if (1..=REQUEST_QUEUES_MAX).contains(&count) => Ok(Self(narrow)),
            Ok(_) | Err(_) => Err(RequestQueuesError(count)),
        }
    }
}

/// Settings of a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Preparation of each thread before it serves.
    pub threads: ThreadSetup,
    /// The tag that the guest reads through CONFIG. `None`: the VMM has the tag, and CONFIG is not
    /// offered.
    pub tag: Option<Tag>,
    /// The queues beside hiprio.
    pub request_queues: RequestQueues,
    /// Whether to serve the next connection when one ends.
    pub keep_listening: bool,
    /// Largest number of threads of the offload pool. 0: each queue waits for its own requests.
    pub pool_threads: u16,
    /// Largest number of requests in the pool. A queue that has one more waits.
    pub pool_requests_max: usize,
    /// How long a queue thread polls for the next request before it sleeps.
    pub poll: PollBudget,
    /// The file systems where the kernel keeps memory files (memfd, and one for each size of huge
    /// pages), as far as they are known. Their files have no path on the host.
    pub memory_devices: Vec<DeviceId>,
}

impl DeviceOptions {
    /// Returns the number of queues, with hiprio.
    pub fn queues(&self) -> usize {
        usize::from(self.request_queues.0).saturating_add(1)
    }

    pub(super) fn config_space(&self) -> Vec<u8> {
        let mut space = Vec::with_capacity(CONFIG_LEN);
        space.extend_from_slice(self.tag.as_ref().map_or(&[0; TAG_LEN], |tag| &tag.0));
        space.extend_from_slice(&u32::from(self.request_queues.0).to_le_bytes());
        // `notify_buf_size` is 0: there is no notification queue.
        space.extend_from_slice(&0u32.to_le_bytes());
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_follows_virtio() {
        let options = DeviceOptions {
            threads: ThreadSetup::unconfined().unwrap(),
            tag: Some(Tag::new("share").unwrap()),
            request_queues: RequestQueues::new(8).unwrap(),
            keep_listening: false,
            pool_threads: 0,
            pool_requests_max: 1,
            poll: PollBudget::NONE,
            memory_devices: Vec::new(),
        };
        let space = options.config_space();
        assert_eq!(space.len(), CONFIG_LEN);
        assert_eq!(&space[..6], b"share\0");
        assert_eq!(space[36..], [8, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_invalid_tag_is_refused() {
        assert_eq!(Tag::new(""), Err(TagError::Empty));
        assert_eq!(Tag::new("a\0b"), Err(TagError::Nul));
        assert_eq!(Tag::new(&"t".repeat(37)), Err(TagError::TooLong(37)));
        Tag::new(&"t".repeat(36)).unwrap();
    }

    #[test]
    fn a_device_has_1_to_63_request_queues() {
        RequestQueues::new(0).unwrap_err();
        RequestQueues::new(1).unwrap();
        RequestQueues::new(63).unwrap();
        RequestQueues::new(64).unwrap_err();
        RequestQueues::new(257).unwrap_err();
    }
}
