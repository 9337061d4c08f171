//! The reply to one request.

use super::error::FrontendError;
use super::layout::OUT_HEADER_LEN;
use pinhole_protocol::Errno;
use pinhole_protocol::client::{OutHeader, decode_out_header};

/// Content of a request's buffers after the device has returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Used length in bytes that the device reported.
    pub used_len: u32,
    /// First `used_len` bytes of the reply buffers.
    pub bytes: Vec<u8>,
    /// Whether the device wrote no byte after `bytes`.
    pub rest_untouched: bool,
}

impl Reply {
    /// Returns header and body. The header's length is the used length.
    ///
    /// # Errors
    /// [`FrontendError::Reply`].
    pub fn parts(&self) -> Result<(OutHeader, &[u8]), FrontendError> {
        decode_out_header(&self.bytes).map_err(|error| FrontendError::Reply(error.to_string()))
    }

    /// Returns the errno, or `None` for success.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if the reply is invalid, or an error with a body.
    pub fn error(&self) -> Result<Option<Errno>, FrontendError> {
        let (header, body) = self.parts()?;
        if header.error.is_some() && !body.is_empty() {
            return Err(FrontendError::Reply(format!("an error with a body of {} bytes", body.len())));
        }
        Ok(header.error)
    }

    /// Returns the body of a successful reply.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] if the reply is an error.
    pub fn success(&self) -> Result<&[u8], FrontendError> {
        match self.error()? {
            None => Ok(self.bytes.get(OUT_HEADER_LEN..).unwrap_or_default()),
            Some(error) => Err(FrontendError::Reply(format!("refused with {error:?}"))),
        }
    }

    /// Returns whether the request was returned without a reply.
    pub const fn is_unanswered(&self) -> bool {
        self.used_len == 0
    }
}
