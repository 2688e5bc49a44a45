//! The loopback addresses of a cluster. Several clusters may run on one machine, so each takes a
//! numbered slot of the two ranges and holds it by a socket; the number is kept in the data
//! directory, since Services' addresses are.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::Path;

use anyhow::Context;

use crate::runtime::IpRange;

/// Slots of 127.64.0.0/10 (pods, a /14 each) and 127.128.0.0/12 (Services, a /16 each).
const SLOTS: u8 = 16;
/// Listened on at the last address of a slot's Service range while the slot is held.
const LOCK_PORT: u16 = 47_999;
/// Nodes get blocks of this prefix length: 4,096 addresses.
pub const NODE_PREFIX: u8 = 20;

/// The ranges of one cluster.
pub struct Network {
    pub cluster_cidr: String,
    pub service_cidr: String,
    /// Holds the slot.
    _lock: Option<TcpListener>,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "the addresses {0} of this cluster are in use by another one on this machine; stop that one \
         first"
    )]
    SlotInUse(String),
    #[error("all {SLOTS} address ranges for clusters on this machine are in use; stop one of them")]
    NoSlot,
    #[error("the file {0} cannot be read or written: {1}")]
    File(std::path::PathBuf, std::io::Error),
}

impl Network {
    /// What guests of this cluster may connect to.
    pub fn ranges(&self) -> anyhow::Result<Vec<IpRange>> {
        let pods = self.cluster_cidr.parse().context("--cluster-cidr")?;
        let services = self.service_cidr.parse().context("--service-cidr")?;
        Ok(vec![pods, services])
    }

    /// Ranges that the user named; nothing guards them.
    pub fn named(cluster_cidr: &str, service_cidr: &str) -> Network {
        let (cluster_cidr, service_cidr) = (cluster_cidr.into(), service_cidr.into());
        Network { cluster_cidr, service_cidr, _lock: None }
    }

    /// The slot noted in `file`, or the first free one, which is then noted.
    pub fn of_slot(file: &Path) -> Result<Network, NetworkError> {
        let bad = |e| NetworkError::File(file.to_path_buf(), e);
        let noted = match std::fs::read_to_string(file) {
            Ok(text) => text.trim().parse::<u8>().ok().filter(|slot| *slot < SLOTS),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(bad(e)),
        };
        if let Some(slot) = noted {
            return take(slot).ok_or_else(|| NetworkError::SlotInUse(service_cidr(slot)));
        }
        let (slot, network) = (0..SLOTS)
            .find_map(|slot| take(slot).map(|network| (slot, network)))
            .ok_or(NetworkError::NoSlot)?;
        std::fs::write(file, format!("{slot}\n")).map_err(bad)?;
        Ok(network)
    }
}

fn service_cidr(slot: u8) -> String {
    format!("127.{}.0.0/16", 128 + slot)
}

fn take(slot: u8) -> Option<Network> {
    let address = SocketAddrV4::new(Ipv4Addr::new(127, 128 + slot, 255, 254), LOCK_PORT);
    let lock = TcpListener::bind(address).ok()?;
    let cluster_cidr = format!("127.{}.0.0/14", 64 + 4 * slot);
    Some(Network { cluster_cidr, service_cidr: service_cidr(slot), _lock: Some(lock) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_kept_and_held() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("network-slot");
        let first = Network::of_slot(&file).unwrap();
        assert!(matches!(Network::of_slot(&file), Err(NetworkError::SlotInUse(_))));
        let other = Network::of_slot(&dir.path().join("other")).unwrap();
        assert_ne!(first.service_cidr, other.service_cidr);
        assert_ne!(first.ranges().unwrap(), other.ranges().unwrap());
        let cidr = first.service_cidr.clone();
        drop(first);
        assert_eq!(Network::of_slot(&file).unwrap().service_cidr, cidr);
    }
}
