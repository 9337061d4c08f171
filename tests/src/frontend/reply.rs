//! The reply to one request.

use super::error::FrontendError;
use super::layout::OUT_HEADER_LEN;
use pinhole_protocol::Errno;
use pinhole_protocol::client::{OutHeader, decode_out_header};

/// What a request's buffers hold after it was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The used length that the device reported, in bytes.
    pub used_len: u32,
    /// So many bytes of the reply buffers.
    pub bytes: Vec<u8>,
    /// Nothing behind them was written.
    pub rest_untouched: bool,
}

impl Reply {
    /// Header and body; the header's length is the used length.
    ///
    /// # Errors
    /// [`FrontendError::Reply`].
    pub fn parts(&self) -> Result<(OutHeader, &[u8]), FrontendError> {
        decode_out_header(&self.bytes).map_err(|error| FrontendError::Reply(error.to_string()))
    }

    /// The error, if the reply is one.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] where it is no reply, or an error with a body.
    pub fn error(&self) -> Result<Option<Errno>, FrontendError> {
        let (header, body) = self.parts()?;
        if header.error.is_some() && !body.is_empty() {
            return Err(FrontendError::Reply(format!("an error with a body of {} bytes", body.len())));
        }
        Ok(header.error)
    }

    /// The body of a reply that is no error.
    ///
    /// # Errors
    /// [`FrontendError::Reply`] where it is one.
    pub fn success(&self) -> Result<&[u8], FrontendError> {
        match self.error()? {
            None => Ok(self.bytes.get(OUT_HEADER_LEN..).unwrap_or_default()),
            Some(error) => Err(FrontendError::Reply(format!("refused with {error:?}"))),
        }
    }

    /// Given back without an answer.
    pub const fn is_unanswered(&self) -> bool {
        self.used_len == 0
    }
}
