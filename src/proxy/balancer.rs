//! Chooses an endpoint for a connection: of two candidates the one with fewer connections, with
//! client affinity where the Service asks for it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::routes::PortRoute;

/// Clients remembered for affinity on one port; the oldest are forgotten beyond it.
const MAX_CLIENTS: usize = 10_000;

/// An endpoint and its open connections.
pub struct Endpoint {
    pub address: SocketAddr,
    connections: AtomicUsize,
}

/// A connection's place at an endpoint; dropping it frees the place.
pub struct Lease(Arc<Endpoint>);

/// The endpoints of one port.
pub struct Balancer {
    endpoints: RwLock<Arc<Vec<Arc<Endpoint>>>>,
    affinity: RwLock<Option<Duration>>,
    /// Whether who finds no endpoint waits for one; told anew at every change of the endpoints.
    is_held: watch::Sender<bool>,
    turn: AtomicUsize,
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Timestamp)>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

impl Balancer {
    pub fn new(route: &PortRoute) -> Balancer {
        let balancer = Balancer {
            endpoints: RwLock::default(),
            affinity: RwLock::default(),
            is_held: watch::Sender::new(false),
            turn: AtomicUsize::new(0),
            clients: Mutex::default(),
        };
        balancer.update(route);
        balancer
    }

    /// Swaps the endpoints; those that stay keep their count of connections.
    pub fn update(&self, route: &PortRoute) {
        let old = self.endpoints.read().clone();
        let keep = |address: &SocketAddr| {
            let kept = old.iter().find(|endpoint| endpoint.address == *address).cloned();
            kept.unwrap_or_else(|| {
                Arc::new(Endpoint { address: *address, connections: AtomicUsize::new(0) })
            })
        };
        *self.endpoints.write() = Arc::new(route.endpoints.iter().map(keep).collect());
        *self.affinity.write() = route.affinity;
        self.is_held.send_replace(route.is_held);
    }

    /// Who waits for an endpoint waits no longer: the port is gone.
    pub fn close(&self) {
        self.is_held.send_replace(false);
    }

    /// Tells of every change, and whether who finds no endpoint waits for one.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.is_held.subscribe()
    }

    /// Chooses an endpoint that is not in `tried`; `None` when there is no other.
    pub fn choose(&self, client: IpAddr, tried: &[SocketAddr], now: Timestamp) -> Option<Lease> {
        let endpoints = self.endpoints.read().clone();
        let affinity = *self.affinity.read();
        let known = affinity.and_then(|_| self.remembered(client, now));
        let fits = |e: &&Arc<Endpoint>| !tried.contains(&e.address);
        let sticky = known.and_then(|address| {
            endpoints.iter().filter(fits).find(|endpoint| endpoint.address == address)
        });
        let chosen = sticky.or_else(|| self.of_two(&endpoints, tried))?;
        chosen.connections.fetch_add(1, Ordering::Relaxed);
        if let Some(timeout) = affinity {
            self.remember(client, chosen.address, now, timeout);
        }
        Some(Lease(chosen.clone()))
    }

    /// Whose turn it is, or its successor if that has fewer connections.
    fn of_two<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        tried: &[SocketAddr],
    ) -> Option<&'a Arc<Endpoint>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = endpoints.len();
        let mut candidates = (0..count)
            .map(|step| &endpoints[(turn.wrapping_add(step)) % count])
            .filter(|endpoint| !tried.contains(&endpoint.address));
        let first = candidates.next()?;
        let load = |endpoint: &Arc<Endpoint>| endpoint.connections.load(Ordering::Relaxed);
        match candidates.next() {
            Some(second) if load(second) < load(first) => Some(second),
            _ => Some(first),
        }
    }

    fn remembered(&self, client: IpAddr, now: Timestamp) -> Option<SocketAddr> {
        let clients = self.clients.lock();
        clients.get(&client).filter(|(_, until)| *until > now).map(|(address, _)| *address)
    }

    fn remember(&self, client: IpAddr, address: SocketAddr, now: Timestamp, timeout: Duration) {
        let until = now + SignedDuration::try_from(timeout).unwrap_or(SignedDuration::ZERO);
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, (_, until)| *until > now);
            let oldest = clients.iter().min_by_key(|(_, (_, until))| *until).map(|(ip, _)| *ip);
            if let Some(oldest) = oldest.filter(|_| clients.len() >= MAX_CLIENTS) {
                clients.remove(&oldest);
            }
        }
        clients.insert(client, (address, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(endpoints: &[&str], affinity: Option<Duration>) -> PortRoute {
        PortRoute {
            address: "127.128.0.1:80".parse().unwrap(),
            endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
            affinity,
            is_held: false,
        }
    }

    #[test]
    fn spreads_and_avoids_the_tried() {
        let balancer = Balancer::new(&route(&["127.64.0.1:1", "127.64.0.2:1"], None));
        let client: IpAddr = "127.0.0.1".parse().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let leases: Vec<Lease> =
            (0..10).filter_map(|_| balancer.choose(client, &[], now)).collect();
        let first = leases.iter().filter(|l| l.address().to_string() == "127.64.0.1:1").count();
        assert_eq!(first, 5);
        let tried = [leases[0].address()];
        assert_ne!(balancer.choose(client, &tried, now).unwrap().address(), tried[0]);
        let both: Vec<SocketAddr> = route(&["127.64.0.1:1", "127.64.0.2:1"], None).endpoints;
        assert!(balancer.choose(client, &both, now).is_none());
    }

    #[test]
    fn clients_stay_until_the_timeout() {
        let day = Some(Duration::from_secs(60));
        let balancer =
            Balancer::new(&route(&["127.64.0.1:1", "127.64.0.2:1", "127.64.0.3:1"], day));
        let client: IpAddr = "127.0.0.9".parse().unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let first = balancer.choose(client, &[], now).unwrap().address();
        for _ in 0..5 {
            assert_eq!(balancer.choose(client, &[], now).unwrap().address(), first);
        }
        balancer.update(&route(&["127.64.0.7:1"], day));
        assert_eq!(
            balancer.choose(client, &[], now).unwrap().address().to_string(),
            "127.64.0.7:1"
        );
    }
}
