//! SPDY/3.1, as far as Kubernetes' clients speak it: kubectl's port-forward in every version
//! (inside of WebSocket messages since 1.31), exec and attach up to 1.29.
//!
//! One connection carries streams that the client opens. [`frame`] and [`headers`] read and write
//! bytes and know no connection; [`session`] runs one. What streams mean is in [`super::streams`].
//! Source: SPDY Protocol, draft 3.1; flow control is left out, as the clients (moby/spdystream) do.

pub mod frame;
pub mod headers;
pub mod session;

pub use session::{Session, Stream, StreamReader, StreamWriter};

/// What a peer did that is no SPDY, or more than is allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpdyError {
    #[error("a frame of version {0}, where 3 is spoken")]
    Version(u16),
    #[error("a control frame of {0} bytes, which is too long")]
    TooLong(usize),
    #[error("a frame that is cut short")]
    Short,
    #[error("a block of headers that cannot be read")]
    Headers,
}
