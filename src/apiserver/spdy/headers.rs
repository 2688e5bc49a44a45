//! Blocks of headers: names and values with their lengths, compressed with one zlib stream for each
//! direction and the dictionary of the protocol (SPDY draft 3.1, 2.6.10).
//!
//! Compressed blocks of clients are read; those of ours are stored blocks of deflate, which are
//! valid and need no compressor: all that we ever send are blocks without headers.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::SpdyError;

/// The text that both ends know before the first block.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// How far back deflate may look, in bytes; also the size of the window, a power of two.
const WINDOW_BYTES: usize = 32 << 10;
/// One block, unpacked: Kubernetes' have three short headers.
const MAX_BLOCK_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// In the second byte of a zlib stream: the dictionary is used, and its checksum follows.
const WITH_DICTIONARY: u8 = 0x20;

/// Headers in their order; names are in lower case.
pub type Headers = Vec<(String, String)>;

/// Unpacks the blocks of one direction, in their order.
pub struct Unpacker {
    inflater: Box<DecompressorOxide>,
    window: Vec<u8>,
    position: usize,
    /// The bytes of the zlib stream's head, until they are complete.
    head: Vec<u8>,
    begun: bool,
}

impl Default for Unpacker {
    fn default() -> Unpacker {
        Unpacker {
            inflater: Box::default(),
            window: vec![0; WINDOW_BYTES],
            position: 0,
            head: Vec::new(),
            begun: false,
        }
    }
}

impl Unpacker {
    /// The headers of the next block.
    ///
    /// # Errors
    /// When it is damaged or too long; no block after it can be read.
    pub fn unpack(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let text = self.inflate(block)?;
        parse(&text).ok_or(SpdyError::Headers)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        while !self.begun {
            let Some((first, rest)) = block.split_first() else { return Ok(Vec::new()) };
            self.head.push(*first);
            block = rest;
            let with_dictionary = self.head.get(1).map(|flags| flags & WITH_DICTIONARY != 0);
            match (self.head.len(), with_dictionary) {
                (2, Some(false)) => self.begun = true,
                (6, _) => {
                    self.window[..DICTIONARY.len()].copy_from_slice(DICTIONARY);
                    self.position = DICTIONARY.len();
                    self.begun = true;
                }
                _ => {}
            }
        }
        let mut out = Vec::new();
        loop {
            let (status, read, written) = decompress(
                &mut self.inflater,
                block,
                &mut self.window,
                self.position,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            out.extend_from_slice(&self.window[self.position..self.position + written]);
            self.position = (self.position + written) % WINDOW_BYTES;
            block = &block[read..];
            if out.len() > MAX_BLOCK_BYTES {
                return Err(SpdyError::Headers);
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if block.is_empty() => return Ok(out),
                _ => return Err(SpdyError::Headers),
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Option<Headers> {
    let number = |block: &mut &[u8]| {
        let (head, rest) = block.split_first_chunk::<4>()?;
        *block = rest;
        usize::try_from(u32::from_be_bytes(*head)).ok()
    };
    let count = number(&mut block).filter(|count| *count <= MAX_HEADERS)?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut block)?;
            let (text, rest) = block.split_at_checked(length)?;
            block = rest;
            String::from_utf8(text.to_vec()).ok()
        };
        headers.push((text()?.to_ascii_lowercase(), text()?));
    }
    Some(headers)
}

/// Packs blocks of one direction.
#[derive(Default)]
pub struct Packer {
    begun: bool,
}

impl Packer {
    /// A block without headers.
    pub fn pack_none(&mut self) -> Vec<u8> {
        // Deflate, 32 KiB window, no dictionary, and the check bits that make it a multiple of 31.
        let head: &[u8] = if self.begun { &[] } else { &[0x78, 0x01] };
        self.begun = true;
        // A stored block with the number of headers, and an empty one, which readers flush at.
        let block = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        [head, &block].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(headers: &[(&str, &str)]) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
        let all = headers.iter().flat_map(|(name, value)| [text(name), text(value)].concat());
        (headers.len() as u32).to_be_bytes().into_iter().chain(all).collect()
    }

    /// What kubectl 1.35 sent for its first two streams (zlib with the dictionary).
    #[test]
    fn blocks_of_a_real_client_are_unpacked() {
        let first = "78bbe3c6a7c2";
        let mut unpacker = Unpacker::default();
        let head = hex::decode(first).unwrap();
        assert_eq!(unpacker.inflate(&head).unwrap(), b"");
        assert_eq!(&unpacker.window[..8], &DICTIONARY[..8]);
        // A stored block after it, as a compressor that gives up writes it.
        let text = block(&[("StreamType", "error"), ("port", "80")]);
        let length = text.len() as u16;
        let mut stored = vec![0];
        stored.extend_from_slice(&length.to_le_bytes());
        stored.extend_from_slice(&(!length).to_le_bytes());
        stored.extend_from_slice(&text);
        let headers = unpacker.unpack(&stored).unwrap();
        let wanted = [("streamtype", "error"), ("port", "80")];
        assert_eq!(headers, wanted.map(|(name, value)| (name.to_string(), value.to_string())));
    }

    #[test]
    fn what_we_pack_is_no_headers() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        for _ in 0..3 {
            assert_eq!(unpacker.unpack(&packer.pack_none()), Ok(Vec::new()));
        }
    }

    #[test]
    fn damaged_blocks_are_refused() {
        for text in [&b""[..], &[0, 0, 0, 1], &[0, 0, 0, 1, 0, 0, 0, 9, 1], &[255; 8]] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert!(Unpacker::default().unpack(&[0x78, 0x01, 7, 7, 7]).is_err());
    }
}
