//! The addresses of a node's pods: handed out round the node's range, so that an address is not
//! used again soon after it was freed.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The first addresses of a range, which no pod gets: the network's and the node's own.
const RESERVED_FIRST: u32 = 2;
/// The shortest prefix that is taken: 65,536 addresses.
const SHORTEST_PREFIX: u8 = 16;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IpError {
    #[error("{0:?} is not an IPv4 range such as 127.64.0.0/24 (prefix 16 to 30)")]
    Range(String),
    #[error("all {0} addresses of the node's pod range are in use")]
    Exhausted(u32),
}

/// Hands out addresses once the range is known. Cheap to clone.
#[derive(Clone)]
pub struct IpPool {
    state: Arc<Mutex<State>>,
    range: Arc<watch::Sender<Option<Range>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

#[derive(Default)]
struct State {
    used: HashSet<u32>,
    /// Given out by an agent before this one; only who asks for such an address gets it.
    reserved: HashSet<u32>,
    next: u32,
}

/// A pod's address; freed when dropped.
pub struct PodIp {
    pub ip: IpAddr,
    lease: Option<(Arc<Mutex<State>>, u32)>,
}

impl PodIp {
    /// The address of a pod in the host's network: not from the pool.
    pub fn of_host(ip: IpAddr) -> PodIp {
        PodIp { ip, lease: None }
    }
}

impl Drop for PodIp {
    fn drop(&mut self) {
        if let Some((state, address)) = self.lease.take() {
            state.lock().used.remove(&address);
        }
    }
}

impl Default for IpPool {
    fn default() -> Self {
        IpPool { state: Arc::default(), range: Arc::new(watch::channel(None).0) }
    }
}

impl IpPool {
    /// Sets the range (`spec.podCIDR` of the Node). Addresses of a range before stay with their
    /// pods. Answers whether it is another one.
    pub fn set_range(&self, cidr: &str) -> Result<bool, IpError> {
        let range = parse(cidr).ok_or_else(|| IpError::Range(cidr.to_string()))?;
        Ok(self.range.send_replace(Some(range)) != Some(range))
    }

    pub fn is_ready(&self) -> bool {
        self.range.borrow().is_some()
    }

    /// Keeps an address for the pod that had it before the agent started again.
    pub fn reserve(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            self.state.lock().reserved.insert(u32::from(ip));
        }
    }

    /// The pod has its address, or does not need it any more.
    pub fn release(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            self.state.lock().reserved.remove(&u32::from(ip));
        }
    }

    /// An address, once the range is known: `preferred` if it is free, else the next one that is
    /// neither used nor reserved.
    pub async fn allocate(&self, preferred: Option<IpAddr>) -> Result<PodIp, IpError> {
        let mut known = self.range.subscribe();
        let range = match known.wait_for(|range| range.is_some()).await {
            Ok(range) => *range,
            Err(_) => None,
        };
        let range = range.unwrap_or(Range { first: 0, count: 0 });
        let mut state = self.state.lock();
        if let Some(IpAddr::V4(ip)) = preferred {
            let address = u32::from(ip);
            let inside = address.checked_sub(range.first).is_some_and(|n| n < range.count);
            if inside && state.used.insert(address) {
                return Ok(self.pod_ip(address));
            }
        }
        for _ in 0..range.count {
            let address = range.first + state.next % range.count;
            state.next = (state.next + 1) % range.count;
            if !state.reserved.contains(&address) && state.used.insert(address) {
                return Ok(self.pod_ip(address));
            }
        }
        Err(IpError::Exhausted(range.count))
    }

    fn pod_ip(&self, address: u32) -> PodIp {
        let ip = IpAddr::V4(Ipv4Addr::from(address));
        PodIp { ip, lease: Some((self.state.clone(), address)) }
    }
}

fn parse(cidr: &str) -> Option<Range> {
    let (ip, prefix) = cidr.split_once('/')?;
    let (ip, prefix) = (ip.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
    if !(SHORTEST_PREFIX..=30).contains(&prefix) {
        return None;
    }
    let size = 1u32 << (32 - prefix);
    let network = u32::from(ip) & !(size - 1);
    // Without the broadcast address.
    Some(Range { first: network + RESERVED_FIRST, count: size - RESERVED_FIRST - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn goes_round_and_does_not_reuse_at_once() {
        let pool = IpPool::default();
        assert!(pool.set_range("127.64.3.0/29").unwrap());
        assert!(!pool.set_range("127.64.3.0/29").unwrap());
        let first = pool.allocate(None).await.unwrap();
        assert_eq!(first.ip.to_string(), "127.64.3.2");
        drop(first);
        let rest: Vec<PodIp> = futures::future::join_all((0..5).map(|_| pool.allocate(None)))
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let ips: Vec<String> = rest.iter().map(|ip| ip.ip.to_string()).collect();
        assert_eq!(ips.join(" "), "127.64.3.3 127.64.3.4 127.64.3.5 127.64.3.6 127.64.3.2");
        assert_eq!(pool.allocate(None).await.err(), Some(IpError::Exhausted(5)));
        drop(rest);
        let wish = pool.allocate(Some("127.64.3.5".parse().unwrap())).await.unwrap();
        assert_eq!(wish.ip.to_string(), "127.64.3.5");
        let outside = pool.allocate(Some("10.0.0.1".parse().unwrap())).await.unwrap();
        assert_eq!(outside.ip.to_string(), "127.64.3.3");
    }

    #[tokio::test]
    async fn reserved_addresses_are_only_given_to_who_asks() {
        let pool = IpPool::default();
        pool.set_range("127.64.3.0/30").unwrap();
        let kept: IpAddr = "127.64.3.2".parse().unwrap();
        pool.reserve(kept);
        assert_eq!(pool.allocate(None).await.err(), Some(IpError::Exhausted(1)));
        let own = pool.allocate(Some(kept)).await.unwrap();
        pool.release(kept);
        assert!(pool.allocate(Some(kept)).await.is_err(), "it is in use");
        drop(own);
        assert_eq!(pool.allocate(None).await.unwrap().ip, kept);
    }

    #[test]
    fn bad_ranges_are_refused() {
        for cidr in ["", "127.64.0.0", "127.64.0.0/8", "127.64.0.0/31", "fd00::/64", "a/24"] {
            assert!(IpPool::default().set_range(cidr).is_err(), "{cidr}");
        }
    }
}
