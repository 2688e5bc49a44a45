//! Addresses of pods that nobody can reach: a part of the loopback network, of which the clusters
//! of this machine have no use, so that what is sent there is refused at once and leaves no machine.

use std::net::Ipv4Addr;

/// 127.192.0.0/10: the addresses of simulated pods.
const FIRST: u32 = 0x7fc0_0000;
const COUNT: u32 = 1 << 22;
const WORDS: usize = COUNT as usize / 64;

/// Which addresses are given away. They are given in turn, so that one that was given back rests.
pub struct Addresses {
    used: Box<[u64]>,
    next: u32,
}

impl Addresses {
    /// Simulators begin at different places, so that two of them rarely give the same address.
    pub fn new(simulator: &str) -> Addresses {
        // FNV-1a.
        let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let next = simulator.bytes().fold(0x811c_9dc5, hash) % COUNT;
        Addresses { used: vec![0; WORDS].into(), next }
    }

    /// The next free address, if there is one.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let (first, bit) = ((self.next / 64) as usize, self.next % 64);
        // The first word again at the end, for its bits before the place where the search began.
        for turn in 0..=WORDS {
            let at = (first + turn) % WORDS;
            let skipped = if turn == 0 { (1u64 << bit) - 1 } else { 0 };
            let taken = (self.used[at] | skipped).trailing_ones();
            if taken < 64 {
                let offset = at as u32 * 64 + taken;
                self.used[at] |= 1 << taken;
                self.next = (offset + 1) % COUNT;
                return Some(Ipv4Addr::from(FIRST + offset));
            }
        }
        None
    }

    /// Takes an address that a pod has already; others' addresses are none of ours.
    pub fn adopt(&mut self, address: Ipv4Addr) {
        if let Some((word, bit)) = place(address) {
            self.used[word] |= bit;
        }
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        if let Some((word, bit)) = place(address) {
            self.used[word] &= !bit;
        }
    }
}

fn place(address: Ipv4Addr) -> Option<(usize, u64)> {
    let offset = u32::from(address).checked_sub(FIRST).filter(|offset| *offset < COUNT)?;
    Some(((offset / 64) as usize, 1 << (offset % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_in_turn_until_there_are_none() {
        let mut addresses = Addresses::new("sim");
        let first = addresses.take().unwrap();
        let second = addresses.take().unwrap();
        assert_eq!(u32::from(second), u32::from(first) + 1);
        addresses.give_back(first);
        assert_ne!(addresses.take(), Some(first), "it rests until the others were given");
        for _ in 3..COUNT {
            assert!(addresses.take().is_some());
        }
        assert_eq!(addresses.take(), Some(first));
        assert_eq!(addresses.take(), None);
        addresses.give_back(second);
        addresses.adopt(second);
        addresses.adopt(Ipv4Addr::LOCALHOST);
        assert_eq!(addresses.take(), None);
    }
}
