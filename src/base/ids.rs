//! Ids that can be seeded: uids, suffixes of generated names, tokens.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The characters of generated names: no vowels, no look-alikes, so no words arise.
/// Source: k8s.io/apimachinery/pkg/util/rand.
const SUFFIX_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A source of ids; seeded in simulation, from the system otherwise.
pub struct Ids(Mutex<StdRng>);

impl Ids {
    pub fn from_system() -> Ids {
        Ids(Mutex::new(StdRng::from_os_rng()))
    }

    pub fn seeded(seed: u64) -> Ids {
        Ids(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// A version 4 UUID (RFC 9562).
    pub fn uid(&self) -> String {
        let mut bytes: [u8; 16] = self.0.lock().random();
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mut text = String::with_capacity(36);
        for (index, byte) in bytes.into_iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 0xf] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
            }
        }
        text
    }

    /// The random end of a generated name.
    pub fn suffix(&self, length: usize) -> String {
        let mut rng = self.0.lock();
        (0..length)
            .map(|_| SUFFIX_CHARACTERS[rng.random_range(0..SUFFIX_CHARACTERS.len())] as char)
            .collect()
    }

    /// A secret of `bytes` random bytes in hexadecimal.
    pub fn secret(&self, bytes: usize) -> String {
        let mut buffer = vec![0u8; bytes];
        self.0.lock().fill(&mut buffer[..]);
        hex::encode(buffer)
    }

    /// A number below `bound` (which must not be 0).
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().random_range(0..bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_ids_repeat_and_have_their_form() {
        let (a, b) = (Ids::seeded(7), Ids::seeded(7));
        assert_eq!(a.uid(), b.uid());
        let uid = a.uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert_eq!(a.suffix(5).len(), 5);
        assert_eq!(a.secret(16).len(), 32);
    }
}
