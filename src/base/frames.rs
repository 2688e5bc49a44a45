//! Several byte streams over one: frames of a channel's number, a length and bytes. Control plane
//! and nodes speak it inside a request and its answer (exec, attach).
//!
//! ```text
//!   channel: 1 byte │ length: 4 bytes, big endian │ bytes
//! ```
//!
//! The numbers are those of Kubernetes' `v5.channel.k8s.io`, so that nothing is renumbered on the
//! way. An empty frame of [`CLOSE`] cannot be; its only byte is the channel that ends.

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
/// The outcome: a Status as JSON, the last frame.
pub const ERROR: u8 = 3;
/// A terminal's size as JSON: `{"Width":80,"Height":24}`.
pub const RESIZE: u8 = 4;
/// Ends the channel that its byte names.
pub const CLOSE: u8 = 255;

/// The longest payload of one frame; longer ones are cut by whoever makes frames.
pub const MAX_FRAME_BYTES: usize = 64 << 10;
const HEAD_BYTES: usize = 5;

/// One frame.
pub type Frame = (u8, Bytes);

/// A frame is longer than it may be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a frame of {0} bytes, where {MAX_FRAME_BYTES} are allowed")]
pub struct TooLong(usize);

/// Frames in one piece of bytes; as many as the payload needs.
pub fn encode(channel: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    let mut put = |piece: &[u8]| {
        out.put_u8(channel);
        out.put_u32(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        out.put_slice(piece);
    };
    if payload.is_empty() {
        put(payload);
    }
    payload.chunks(MAX_FRAME_BYTES).for_each(&mut put);
    out.freeze()
}

/// Takes bytes as they come and gives whole frames. Holds one frame, and what came with its end.
#[derive(Default)]
pub struct Decoder(BytesMut);

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// When the next frame is too long; nothing after it can be read.
    pub fn take(&mut self) -> Result<Option<Frame>, TooLong> {
        let Some(head) = self.0.get(..HEAD_BYTES) else { return Ok(None) };
        let channel = head[0];
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(TooLong(length));
        }
        if self.0.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.0.advance(HEAD_BYTES);
        Ok(Some((channel, self.0.split_to(length).freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let long = vec![7; MAX_FRAME_BYTES + 1];
        let mut wire = encode(STDIN, b"abc").to_vec();
        wire.extend_from_slice(&encode(STDOUT, &long));
        wire.extend_from_slice(&encode(CLOSE, &[STDIN]));
        wire.extend_from_slice(&encode(ERROR, b""));
        for piece in [1, 3, 4096] {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for bytes in wire.chunks(piece) {
                decoder.push(bytes);
                while let Some(frame) = decoder.take().unwrap() {
                    seen.push((frame.0, frame.1.len()));
                }
            }
            let max = MAX_FRAME_BYTES;
            let wanted = [(STDIN, 3), (STDOUT, max), (STDOUT, 1), (CLOSE, 1), (ERROR, 0)];
            assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_held() {
        let mut decoder = Decoder::default();
        decoder.push(&[1, 0, 1, 0, 1]);
        assert_eq!(decoder.take(), Err(TooLong(MAX_FRAME_BYTES + 1)));
    }
}
