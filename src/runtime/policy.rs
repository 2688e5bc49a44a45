//! Where one container may connect, and what names mean to it.
//!
//! Deny by default: the cluster's own addresses are open, everything outside only by the pod's
//! list of allowed hosts. The host's loopback and link-local addresses are never open, listed or
//! not: the control plane and cloud metadata live there. What a guest calls its loopback is its pod,
//! as where a pod has a network of its own: its containers find each other there.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Names;
use super::denials::Denials;

/// Addresses of allowed hosts that a container's look-ups are remembered by, at most; the oldest
/// is forgotten first.
const MAX_REMEMBERED_ADDRESSES: usize = 256;
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 16;
/// Longest name that DNS knows, in bytes (RFC 1035, section 2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// The name of the loopback, which no server of names is asked for.
const LOCALHOST: &str = "localhost";

/// The network as one container may use it.
pub struct NetworkPolicy {
    pub pod_ip: IpAddr,
    /// The pod has an address of the cluster: its loopback is that, and not the machine's.
    has_loopback: bool,
    /// Addresses of the cluster's pods and Services.
    cluster: Arc<[IpRange]>,
    namespace: String,
    names: Arc<dyn Names>,
    allow_all: bool,
    /// Lower case, without ports.
    allowed_hosts: Vec<String>,
    /// What allowed hosts' names resolved to: these addresses are open for plain sockets, too.
    resolved: Mutex<VecDeque<IpAddr>>,
    pub denials: Denials,
}

/// Why a name gives no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupError {
    /// Neither a name of the cluster nor an allowed host.
    Denied,
    Invalid,
    NotFound,
}

impl NetworkPolicy {
    pub fn new(
        pod_ip: IpAddr,
        cluster: Arc<[IpRange]>,
        namespace: String,
        names: Arc<dyn Names>,
        allowed_hosts: &[String],
    ) -> Self {
        let allowed_hosts: Vec<String> =
            allowed_hosts.iter().map(|host| host_of(host).to_ascii_lowercase()).collect();
        let allow_all = allowed_hosts.iter().any(|host| host == "*");
        let has_loopback = is_of(&cluster, pod_ip);
        Self {
            pod_ip,
            has_loopback,
            cluster,
            namespace,
            names,
            allow_all,
            allowed_hosts,
            resolved: Mutex::default(),
            denials: Denials::default(),
        }
    }

    /// The same, and what it refuses is told.
    pub fn telling(self, denials: Denials) -> Self {
        Self { denials, ..self }
    }

    /// Where a guest's bind really goes: a wildcard and the loopback mean the pod's own address.
    pub fn bind_address(&self, wanted: SocketAddr) -> SocketAddr {
        if wanted.ip().is_unspecified() && self.is_of_family(wanted) {
            return SocketAddr::new(self.pod_ip, wanted.port());
        }
        self.remote_address(wanted)
    }

    /// Where a guest's connect or datagram really goes: the loopback means the pod's own address. A
    /// socket of the other family cannot get there.
    pub fn remote_address(&self, mut address: SocketAddr) -> SocketAddr {
        if self.is_of_family(address) {
            address.set_ip(self.meaning(address.ip()));
        }
        address
    }

    fn is_of_family(&self, address: SocketAddr) -> bool {
        address.is_ipv4() == self.pod_ip.is_ipv4()
    }

    /// The address that a guest means: its loopback is its pod's own address.
    fn meaning(&self, address: IpAddr) -> IpAddr {
        match self.has_loopback && self.is_loopback(address) {
            true => self.pod_ip,
            false => address,
        }
    }

    /// Whether an address is of the loopback and nobody's: clusters have their pods and Services
    /// there, too.
    fn is_loopback(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback()
            && !self.is_cluster(address)
            && !is_of(&[IpRange::ALL_PODS, IpRange::ALL_SERVICES], address)
    }

    /// Whether a guest may bind here. An unspecified address without port is what the system does
    /// by itself before a connect; explicit binds have been through [`Self::bind_address`].
    pub fn may_bind(&self, address: SocketAddr) -> bool {
        address.ip() == self.pod_ip || (address.ip().is_unspecified() && address.port() == 0)
    }

    /// Whether a guest may connect or send to this address; its own loopback has been through
    /// [`Self::remote_address`].
    pub fn may_connect(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.is_cluster(address) || address == self.pod_ip {
            return true;
        }
        !is_host_local(address)
            && (self.allow_all
                || self.lists(&address.to_string())
                || self.resolved.lock().contains(&address))
    }

    /// [`Self::may_connect`] of a guest that tries; a refusal is noted.
    pub fn let_connect(&self, to: SocketAddr) -> bool {
        let may = self.may_connect(to.ip());
        if !may {
            let address = to.ip().to_canonical();
            self.denials.note(&address, Some(to.port()), !is_host_local(address));
        }
        may
    }

    /// [`Self::resolve`] for a guest that will connect to `port` of what it finds; a refusal is noted.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn look_up(&self, name: &str, port: Option<u16>) -> Result<Vec<IpAddr>, LookupError> {
        let found = self.resolve(name).await;
        if found == Err(LookupError::Denied) {
            self.denials.note(&name, port, true);
        }
        found
    }

    /// Whether an address is a pod's or a Service's of this cluster. Other clusters on the machine
    /// have ranges of their own, which are closed.
    pub fn is_cluster(&self, address: IpAddr) -> bool {
        is_of(&self.cluster, address)
    }

    fn lists(&self, host: &str) -> bool {
        self.allowed_hosts.iter().any(|allowed| {
            allowed == host
                || allowed.strip_prefix("*.").is_some_and(|domain| {
                    host.strip_suffix(domain).is_some_and(|sub| sub.ends_with('.'))
                })
        })
    }

    /// The addresses of a name: the pod's own and the cluster's first, then, for allowed hosts, the
    /// world's.
    ///
    /// # Errors
    /// [`LookupError`] says whether the name is unknown or not allowed.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![self.meaning(address.to_canonical())]);
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_name_byte) {
            return Err(LookupError::Invalid);
        }
        if self.has_loopback && name == LOCALHOST {
            return Ok(vec![self.pod_ip]);
        }
        if let Some(mut found) = self.names.resolve(&self.namespace, &name) {
            found.truncate(MAX_ADDRESSES);
            found.iter_mut().for_each(|address| *address = self.meaning(*address));
            found.dedup();
            return if found.is_empty() { Err(LookupError::NotFound) } else { Ok(found) };
        }
        // Names below it are the loopback's, too (RFC 6761, section 6.3).
        if self.has_loopback && name.rsplit('.').next() == Some(LOCALHOST) {
            return Ok(vec![self.pod_ip]);
        }
        if !self.allow_all && !self.lists(&name) {
            return Err(LookupError::Denied);
        }
        let listed = self.lists(&name);
        let found =
            tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|_| LookupError::NotFound)?;
        // A public name that points at this machine is an attack (DNS rebinding), not a service.
        let found: Vec<IpAddr> = found
            .map(|address| address.ip().to_canonical())
            .filter(|address| !is_host_local(*address))
            .take(MAX_ADDRESSES)
            .collect();
        if found.is_empty() {
            return Err(LookupError::NotFound);
        }
        if listed {
            self.remember(&found);
        }
        Ok(found)
    }

    fn remember(&self, addresses: &[IpAddr]) {
        let mut resolved = self.resolved.lock();
        for address in addresses {
            if !resolved.contains(address) {
                if resolved.len() >= MAX_REMEMBERED_ADDRESSES {
                    resolved.pop_front();
                }
                resolved.push_back(*address);
            }
        }
    }
}

/// The host of `host:port`, `[::1]:80` or a bare address.
pub fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => {
            host
        }
        _ => authority,
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

/// A range of addresses, such as 127.64.0.0/14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    network: IpAddr,
    prefix: u8,
}

impl IpRange {
    /// Where clusters on this machine have their pods.
    pub const ALL_PODS: IpRange =
        IpRange { network: IpAddr::V4(Ipv4Addr::new(127, 64, 0, 0)), prefix: 10 };
    /// Where clusters on this machine have their Services.
    pub const ALL_SERVICES: IpRange =
        IpRange { network: IpAddr::V4(Ipv4Addr::new(127, 128, 0, 0)), prefix: 12 };

    /// The first address that something may have; in the range of Services the API's.
    pub fn first(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | 1).into(),
            IpAddr::V6(network) => std::net::Ipv6Addr::from_bits(network.to_bits() | 1).into(),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

fn is_of(ranges: &[IpRange], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

/// A text that is no [`IpRange`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a range of addresses such as 127.64.0.0/14")]
pub struct BadRange(String);

impl FromStr for IpRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<IpRange, BadRange> {
        let parse = || {
            let (network, prefix) = text.split_once('/')?;
            let (network, prefix) = (network.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
            let most = if network.is_ipv4() { 32 } else { 128 };
            (prefix <= most).then_some(IpRange { network, prefix })
        };
        parse().ok_or_else(|| BadRange(text.to_owned()))
    }
}

/// Addresses that mean this machine, its neighbours on the link, or nothing at all.
fn is_host_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address == Ipv4Addr::BROADCAST
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;
    impl Names for One {
        fn resolve(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
            match name {
                "db" if namespace == "prod" => Some(vec![ip("127.128.0.9")]),
                "alias" => Some(vec![ip("127.0.0.1"), ip("::1"), ip("10.0.0.1")]),
                _ => None,
            }
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn policy(allowed: &[&str]) -> NetworkPolicy {
        policy_of("127.64.0.7", allowed)
    }

    fn policy_of(pod: &str, allowed: &[&str]) -> NetworkPolicy {
        let allowed: Vec<String> = allowed.iter().map(|host| (*host).to_owned()).collect();
        let cluster = ["127.64.0.0/14", "127.128.0.0/16"].map(|range| range.parse().expect("one"));
        NetworkPolicy::new(ip(pod), cluster.into(), "prod".to_owned(), Arc::new(One), &allowed)
    }

    #[test]
    fn only_the_cluster_is_open_by_default() {
        let policy = policy(&[]);
        for open in ["127.64.0.1", "127.67.255.255", "127.128.0.1", "127.128.255.1"] {
            assert!(policy.may_connect(ip(open)), "{open}");
        }
        for closed in [
            "127.0.0.1",
            "127.63.0.1",
            "127.68.0.1",
            "127.129.0.1",
            "169.254.169.254",
            "10.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "8.8.8.8",
            "0.0.0.0",
        ] {
            assert!(!policy.may_connect(ip(closed)), "{closed}");
        }
    }

    #[test]
    fn allowed_hosts_open_the_world_but_never_this_machine() {
        let all = policy(&["*"]);
        assert!(all.may_connect(ip("8.8.8.8")));
        assert!(!all.may_connect(ip("127.0.0.1")));
        assert!(!all.may_connect(ip("169.254.169.254")));
        for host in ["127.0.0.1", "169.254.169.254", "::1"] {
            assert!(!policy(&[host]).may_connect(ip(host)), "listing {host} does not open it");
        }
        assert!(policy(&["10.1.2.3:5432"]).may_connect(ip("10.1.2.3")));
        assert!(policy(&["*.example.com"]).lists("api.example.com"));
        assert!(!policy(&["*.example.com"]).lists("badexample.com"));
    }

    #[test]
    fn wildcard_binds_become_the_pods_address() {
        let policy = policy(&[]);
        let to = |text: &str| policy.bind_address(text.parse().expect("an address")).to_string();
        assert_eq!(to("0.0.0.0:80"), "127.64.0.7:80");
        assert_eq!(to("127.64.0.7:81"), "127.64.0.7:81");
        assert!(!policy.may_bind("127.64.0.8:80".parse().expect("an address")));
        assert!(!policy.may_bind("0.0.0.0:80".parse().expect("an address")));
    }

    #[tokio::test]
    async fn the_loopback_is_the_pod_itself() {
        let policy = policy(&[]);
        let socket = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (wanted, real) in [
            ("127.0.0.1:80", "127.64.0.7:80"),
            ("127.0.1.1:0", "127.64.0.7:0"),
            // No socket of IPv6 reaches an address of IPv4.
            ("[::1]:80", "[::1]:80"),
            ("127.64.0.9:80", "127.64.0.9:80"),
            // What other clusters of the machine have is nobody's loopback.
            ("127.68.0.1:80", "127.68.0.1:80"),
            ("127.129.0.1:80", "127.129.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            let real = socket(real);
            assert_eq!(policy.bind_address(socket(wanted)), real, "{wanted}");
            assert_eq!(policy.remote_address(socket(wanted)), real, "{wanted}");
        }
        assert!(policy.may_bind(policy.bind_address(socket("127.0.0.1:80"))));
        let own = Ok(vec![ip("127.64.0.7")]);
        let names = ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "::1", "[::1]"];
        for name in names {
            assert_eq!(policy.resolve(name).await, own, "{name}");
        }
        assert_eq!(policy.resolve("alias").await, Ok(vec![ip("127.64.0.7"), ip("10.0.0.1")]));
        assert_eq!(policy.resolve("notlocalhost").await, Err(LookupError::Denied));
    }

    #[tokio::test]
    async fn the_machines_loopback_stays_closed_to_who_has_its_address() {
        let policy = policy_of("10.9.9.9", &["*"]);
        let local: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        assert_eq!((policy.bind_address(local), policy.remote_address(local)), (local, local));
        assert!(!policy.may_bind(local) && !policy.let_connect(local));
        assert_eq!(policy.resolve("localhost").await, Err(LookupError::NotFound));
        let found = policy.resolve("alias").await.expect("an alias");
        assert!(!policy.may_connect(found[0]), "{found:?}");
    }

    #[tokio::test]
    async fn names_are_the_clusters_or_denied() {
        let policy = policy(&[]);
        assert_eq!(policy.resolve("DB.").await, Ok(vec![ip("127.128.0.9")]));
        assert_eq!(policy.resolve("10.0.0.1").await, Ok(vec![ip("10.0.0.1")]));
        assert_eq!(policy.resolve("example.com").await, Err(LookupError::Denied));
        assert_eq!(policy.resolve("a/../b").await, Err(LookupError::Invalid));
    }

    #[test]
    fn ranges_are_read_and_hold_their_addresses() {
        let range = |text: &str| text.parse::<IpRange>().expect("a range");
        assert_eq!(range("127.64.0.0/10"), IpRange::ALL_PODS);
        assert_eq!(range("127.128.0.0/12"), IpRange::ALL_SERVICES);
        assert!(range("0.0.0.0/0").contains(ip("9.9.9.9")));
        assert!(range("10.0.0.1/32").contains(ip("10.0.0.1")));
        assert!(!range("10.0.0.1/32").contains(ip("10.0.0.0")));
        assert!(
            range("fd00::/8").contains(ip("fd12::1")) && !range("fd00::/8").contains(ip("::1"))
        );
        for bad in ["", "127.0.0.1", "127.0.0.0/33", "x/8", "127.0.0.0/"] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_cut_from_authorities() {
        for (authority, host) in
            [("a.b:80", "a.b"), ("[::1]:80", "::1"), ("::1", "::1"), ("a", "a")]
        {
            assert_eq!(host_of(authority), host);
        }
    }
}
