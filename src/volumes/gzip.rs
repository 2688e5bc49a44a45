//! Reads gzip (RFC 1952) from memory, with any number of members, as tools for images write it. Its
//! checksums are not looked at: who has the bytes has checked their digest.

use std::io::{self, ErrorKind, Read};

use miniz_oxide::inflate::stream::{InflateState, MinReset, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

/// Checksum and length after each member.
const TRAILER_BYTES: usize = 8;
const HEADER_BYTES: usize = 10;
const DEFLATE: u8 = 8;
/// Flags of a member's header, and those that the format does not know.
const HAS_CHECKSUM: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const UNKNOWN: u8 = 0b1110_0000;

/// What is compressed in some bytes.
pub struct Gunzip<'a> {
    input: &'a [u8],
    state: Box<InflateState>,
    in_member: bool,
}

impl<'a> Gunzip<'a> {
    pub fn new(input: &'a [u8]) -> Gunzip<'a> {
        let state = InflateState::new_boxed(DataFormat::Raw);
        Gunzip { input, state, in_member: false }
    }
}

impl Read for Gunzip<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_member {
                // Some tools fill the last block with zeros.
                if self.input.iter().all(|byte| *byte == 0) {
                    return Ok(0);
                }
                self.input = after_header(self.input).ok_or_else(|| bad("no gzip header"))?;
                self.state.reset_as(MinReset);
                self.in_member = true;
            }
            let result = inflate(&mut self.state, self.input, out, MZFlush::None);
            self.input = &self.input[result.bytes_consumed..];
            match result.status {
                Ok(MZStatus::StreamEnd) => {
                    self.input = self.input.get(TRAILER_BYTES..).ok_or_else(cut)?;
                    self.in_member = false;
                }
                Ok(_) => {}
                Err(MZError::Buf) if result.bytes_written > 0 => {}
                Err(MZError::Buf) => return Err(cut()),
                Err(_) => return Err(bad("damaged gzip data")),
            }
            if result.bytes_written > 0 {
                return Ok(result.bytes_written);
            }
            if self.in_member && self.input.is_empty() {
                return Err(cut());
            }
        }
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

fn cut() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the gzip data end too early")
}

fn after_header(input: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = input.split_at_checked(HEADER_BYTES)?;
    let flags = header[3];
    if header[..3] != [0x1f, 0x8b, DEFLATE] || flags & UNKNOWN != 0 {
        return None;
    }
    if flags & HAS_EXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for flag in [HAS_NAME, HAS_COMMENT] {
        if flags & flag != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HAS_CHECKSUM != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// One member whose data are not compressed, in blocks as DEFLATE has them (RFC 1951, 3.2.4).
    pub fn stored(bytes: &[u8]) -> Vec<u8> {
        let mut member = vec![0x1f, 0x8b, DEFLATE, HAS_NAME, 0, 0, 0, 0, 0, 3];
        member.extend(b"name\0");
        let mut blocks = bytes.chunks(u16::MAX.into()).peekable();
        while let Some(block) = blocks.next() {
            let length = u16::try_from(block.len()).unwrap();
            member.push(u8::from(blocks.peek().is_none()));
            member.extend(length.to_le_bytes());
            member.extend((!length).to_le_bytes());
            member.extend(block);
        }
        member.extend([0; TRAILER_BYTES]);
        member
    }

    #[test]
    fn members_are_read_one_after_the_other() {
        let (a, b) = (vec![7; 100_000], b"the end".to_vec());
        let mut all = stored(&a);
        all.extend(stored(&b));
        all.extend([0; 512]);
        let mut read = Vec::new();
        Gunzip::new(&all).read_to_end(&mut read).unwrap();
        assert_eq!(read, [a, b].concat());
        // As zlib writes it.
        let text = "1f8b08000000000002032bc957484a55c82f52c8cb2f5128017174144a32124b14328b8174aa4261\
                    696a7149667e9e35441245250033c5163c3c000000";
        let mut read = String::new();
        Gunzip::new(&hex::decode(text).unwrap()).read_to_string(&mut read).unwrap();
        assert_eq!(read, "to be or not to be, that is the question; to be or not to be");
        for cut in [0, 5, 12, 20, all.len() / 2] {
            let result = Gunzip::new(&all[..cut]).read_to_end(&mut Vec::new());
            assert!(result.is_err() || cut == 0, "{cut}");
        }
        assert!(Gunzip::new(b"#!/bin/sh and more").read_to_end(&mut Vec::new()).is_err());
        let mut damaged = stored(b"x");
        damaged[15] |= 0b110;
        assert!(Gunzip::new(&damaged).read_to_end(&mut Vec::new()).is_err());
    }
}
