//! Frames of SPDY/3.1: bytes in, events out, and back. Pure and bounded: control frames are held
//! whole and are short, the bytes of data frames are passed on as they come.
//!
//! ```text
//!   control: 1 │ version: 15 │ type: 16 │ flags: 8 │ length: 24 │ …
//!   data:    0 │ stream: 31             │ flags: 8 │ length: 24 │ bytes
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::SpdyError;
use super::headers::{Headers, Packer, Unpacker};

const VERSION: u16 = 3;
const HEAD_BYTES: usize = 8;
/// The longest control frame; blocks of headers are a few hundred bytes.
const MAX_CONTROL_BYTES: usize = 16 << 10;
/// The longest data frame that we make.
pub const MAX_DATA_BYTES: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;
const CONTROL: u32 = 1 << 31;

/// Why a stream is refused or given up (SPDY draft 3.1, 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Opened {
        stream: u32,
        headers: Headers,
        ended: bool,
    },
    /// A part of a data frame, or all of it; `ended`: the last of its stream.
    Data {
        stream: u32,
        bytes: Bytes,
        ended: bool,
    },
    /// Headers that came later; only their end of the stream matters.
    Ended {
        stream: u32,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
}

/// Reads one direction of a connection.
#[derive(Default)]
pub struct Decoder {
    buffer: BytesMut,
    unpacker: Unpacker,
    /// The data frame whose bytes are coming.
    data: Option<Data>,
}

struct Data {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event that is complete.
    ///
    /// # Errors
    /// When the peer speaks something else; nothing after it can be read.
    pub fn take(&mut self) -> Result<Option<Event>, SpdyError> {
        loop {
            if let Some(data) = self.data.as_mut() {
                if data.left > 0 && self.buffer.is_empty() {
                    return Ok(None);
                }
                let bytes = self.buffer.split_to(data.left.min(self.buffer.len())).freeze();
                data.left -= bytes.len();
                let (stream, ended) = (data.stream, data.fin && data.left == 0);
                if data.left == 0 {
                    self.data = None;
                }
                return Ok(Some(Event::Data { stream, bytes, ended }));
            }
            let Some(mut head) = self.buffer.get(..HEAD_BYTES) else { return Ok(None) };
            let (word, flags_length) = (head.get_u32(), head.get_u32());
            let flags = (flags_length >> 24) as u8;
            let length = (flags_length & 0xff_ffff) as usize;
            if word & CONTROL == 0 {
                self.buffer.advance(HEAD_BYTES);
                self.data = Some(Data { stream: word, left: length, fin: flags & FIN != 0 });
                continue;
            }
            let version = ((word >> 16) & 0x7fff) as u16;
            if version != VERSION {
                return Err(SpdyError::Version(version));
            }
            if length > MAX_CONTROL_BYTES {
                return Err(SpdyError::TooLong(length));
            }
            if self.buffer.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            self.buffer.advance(HEAD_BYTES);
            let payload = self.buffer.split_to(length).freeze();
            if let Some(event) = self.control((word & 0xffff) as u16, flags, payload)? {
                return Ok(Some(event));
            }
        }
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        mut payload: Bytes,
    ) -> Result<Option<Event>, SpdyError> {
        let ended = flags & FIN != 0;
        let mut number = || payload.try_get_u32().map_err(|_| SpdyError::Short);
        Ok(match kind {
            SYN_STREAM => {
                let stream = number()? & !CONTROL;
                // The stream that it belongs to, its priority and slot mean nothing here.
                number()?;
                payload.try_get_u16().map_err(|_| SpdyError::Short)?;
                let headers = self.unpacker.unpack(&payload)?;
                Some(Event::Opened { stream, headers, ended })
            }
            SYN_REPLY | HEADERS => {
                let stream = number()? & !CONTROL;
                // Unpacked in any case: what follows is packed with regard to it.
                self.unpacker.unpack(&payload)?;
                ended.then_some(Event::Ended { stream })
            }
            RST_STREAM => Some(Event::Reset { stream: number()? & !CONTROL }),
            PING => Some(Event::Ping { id: number()? }),
            GOAWAY => Some(Event::GoAway),
            // Settings, windows, credentials.
            _ => None,
        })
    }
}

/// Makes frames of the other direction.
#[derive(Default)]
pub struct Encoder {
    packer: Packer,
}

impl Encoder {
    /// Accepts a stream.
    pub fn reply(&mut self, stream: u32) -> Bytes {
        let block = self.packer.pack_none();
        let mut out = control(SYN_REPLY, 4 + block.len());
        out.put_u32(stream);
        out.put_slice(&block);
        out.freeze()
    }
}

/// A piece of a stream, at most [`MAX_DATA_BYTES`] long.
pub fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + bytes.len());
    out.put_u32(stream);
    out.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | bytes.len() as u32);
    out.put_slice(bytes);
    out.freeze()
}

pub fn reset(stream: u32, code: ResetCode) -> Bytes {
    let mut out = control(RST_STREAM, 8);
    out.put_u32(stream);
    out.put_u32(code as u32);
    out.freeze()
}

pub fn ping(id: u32) -> Bytes {
    let mut out = control(PING, 4);
    out.put_u32(id);
    out.freeze()
}

fn control(kind: u16, length: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + length);
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    out.put_u32(length as u32);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(stream: u32) -> Vec<u8> {
        // A SYN_STREAM whose block is packed as ours are.
        let block = Packer::default().pack_none();
        let mut out = control(SYN_STREAM, 10 + block.len());
        out.put_u32(stream);
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&block);
        out.to_vec()
    }

    #[test]
    fn events_do_not_depend_on_where_bytes_are_cut() {
        let mut wire = opened(1);
        wire.extend_from_slice(&data(1, b"hello", false));
        wire.extend_from_slice(&data(1, b"", true));
        wire.extend_from_slice(&ping(7));
        wire.extend_from_slice(&reset(1, ResetCode::Cancel));
        for piece in [1, 2, 7, 1000] {
            let (mut decoder, mut text, mut events) = (Decoder::default(), Vec::new(), Vec::new());
            for bytes in wire.chunks(piece) {
                decoder.push(bytes);
                while let Some(event) = decoder.take().unwrap() {
                    match event {
                        Event::Data { bytes, ended, .. } => {
                            text.extend_from_slice(&bytes);
                            if ended {
                                events.push("end".to_string());
                            }
                        }
                        other => events.push(format!("{other:?}")),
                    }
                }
            }
            assert_eq!(text, b"hello");
            let wanted = [
                "Opened { stream: 1, headers: [], ended: false }",
                "end",
                "Ping { id: 7 }",
                "Reset { stream: 1 }",
            ];
            assert_eq!(events, wanted);
        }
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        let read = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.take()
        };
        assert_eq!(read(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version(2)));
        let too_long = read(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert_eq!(too_long, Err(SpdyError::TooLong(0xff_ffff)));
        assert_eq!(read(&[0x80, 3, 0, 6, 0, 0, 0, 1, 0]), Err(SpdyError::Short));
        assert_eq!(read(b"GET / HT"), Ok(None), "a data frame, for all that one can tell");
    }
}
