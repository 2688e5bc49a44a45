//! Reads zstd (RFC 8878) from memory, with any number of frames, as tools for images write it; frames
//! to be skipped (those of zstd:chunked) are. Checksums are not looked at: who has the bytes has
//! checked their digest.

use std::io::{self, ErrorKind, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How far back a frame may refer, which is what reading it takes: what RFC 8878, 3.1.1.1.2, wants of
/// every decoder. That is enough for all levels of `zstd` but `--ultra` and `--long`.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// What is compressed in some bytes.
pub struct Unzstd<'a> {
    input: &'a [u8],
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<'a> Unzstd<'a> {
    pub fn new(input: &'a [u8]) -> Unzstd<'a> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        Unzstd { input, decoder, in_frame: false }
    }

    /// Begins the next frame; false: there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.input.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    self.input = self.input.get(length..).ok_or_else(cut)?;
                }
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(false)
    }
}

impl Read for Unzstd<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                if !self.begin()? {
                    return Ok(0);
                }
                self.in_frame = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                // No more than a block beyond the window is ever held.
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.input, one).map_err(failure)?;
            }
            let count = self.decoder.read(out)?;
            if count > 0 {
                return Ok(count);
            }
            self.in_frame = false;
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the zstd data end too early")
}

fn failure(error: FrameDecoderError) -> io::Error {
    match error {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => {
            let why = format!(
                "its zstd data refer {requested} bytes back, and at most {MAX_WINDOW_BYTES} can be \
                 kept; compress it without --ultra and --long"
            );
            io::Error::new(ErrorKind::InvalidData, why)
        }
        error => io::Error::new(ErrorKind::InvalidData, format!("damaged zstd data: {error}")),
    }
}

#[cfg(test)]
pub mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    /// One frame.
    pub fn compressed(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    fn read(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut read = Vec::new();
        Unzstd::new(input).read_to_end(&mut read)?;
        Ok(read)
    }

    #[test]
    fn frames_are_read_one_after_the_other() {
        let text = b"to be or not to be, that is the question; ".repeat(9_000);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"...", &compressed(b"the end")];
        let all = [&compressed(&text)[..], &skipped.concat()].concat();
        assert!(all.len() < text.len() / 2);
        assert_eq!(read(&all).unwrap(), [&text[..], b"the end"].concat());
        assert_eq!(read(b"").unwrap(), b"");
        // By `zstd` itself: `zstd -19 --check`.
        let by_zstd = hex::decode(BY_ZSTD).unwrap();
        let same = b"to be or not to be, that is the question; to be or not to be\n".repeat(20);
        assert_eq!(read(&by_zstd).unwrap(), same);
        for end in [1, 3, 5, 20, by_zstd.len() - 1] {
            assert!(read(&by_zstd[..end]).is_err(), "{end}");
        }
        let mut damaged = by_zstd.clone();
        damaged[1] ^= 1;
        assert!(read(&damaged).is_err());
        assert!(read(b"#!/bin/sh and more").is_err());
    }

    #[test]
    fn a_frame_may_not_want_much_memory() {
        // A frame of the largest window (RFC 8878, 3.1.1.1.2), and one of a single segment.
        let header = [0x28, 0xb5, 0x2f, 0xfd];
        let window = [&header[..], &[0x00, 0xf8, 1, 0, 0]].concat();
        let single = [&header[..], &[0xe0], &(1_u64 << 40).to_le_bytes(), &[1, 0, 0]].concat();
        for frame in [window, single] {
            let error = read(&frame).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(error.to_string().contains("bytes back"), "{error}");
        }
    }

    const BY_ZSTD: &str = "\
        28b52ffd04688d01006282080fb03707423aee9e6560b05d00f348816071684d3a65aa9e7647f570f136\
        3891b10103008400e11734e523b4f30b6749c7c4";
}
