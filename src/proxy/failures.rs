//! Listeners that could not be opened: each trouble is told once, and tried again after growing
//! waits. A port that needs a privilege stays closed for as long as the Service is there.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use crate::api::ObjectKey;

/// The wait before a listener that could not be opened is tried again, doubling to the most.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const MOST_WAIT: Duration = Duration::from_secs(300);

/// The ports that are not listened on, by Service.
#[derive(Default)]
pub struct Failures {
    services: HashMap<ObjectKey, BTreeMap<SocketAddr, Failure>>,
}

struct Failure {
    message: String,
    wait: Duration,
}

impl Failures {
    /// Takes what failed of a Service this time; ports that are not named work, or are gone.
    /// Answers what is new to tell, and when to try again.
    pub fn settle(
        &mut self,
        service: &ObjectKey,
        failed: Vec<(SocketAddr, String)>,
    ) -> (Vec<String>, Option<Duration>) {
        let mut before = self.services.remove(service).unwrap_or_default();
        let mut now = BTreeMap::new();
        let mut news = Vec::new();
        for (address, message) in failed {
            let known = before.remove(&address).filter(|known| known.message == message);
            let wait = match known {
                Some(known) => (known.wait * 2).min(MOST_WAIT),
                None => {
                    news.push(message.clone());
                    FIRST_WAIT
                }
            };
            now.insert(address, Failure { message, wait });
        }
        let wait = now.values().map(|failure| failure.wait).min();
        if !now.is_empty() {
            self.services.insert(service.clone(), now);
        }
        (news, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_and_waits_grow() {
        let mut failures = Failures::default();
        let key = ObjectKey::new("default", "kubernetes");
        let address: SocketAddr = "127.128.0.1:443".parse().unwrap();
        let denied = || vec![(address, "denied".to_string())];
        let seconds = Duration::from_secs;
        let first = failures.settle(&key, denied());
        assert_eq!(first, (vec!["denied".to_string()], Some(seconds(10))));
        assert_eq!(failures.settle(&key, denied()), (vec![], Some(seconds(20))));
        for _ in 0..10 {
            failures.settle(&key, denied());
        }
        assert_eq!(failures.settle(&key, denied()), (vec![], Some(seconds(300))));
        let other = failures.settle(&key, vec![(address, "in use".to_string())]);
        assert_eq!(other, (vec!["in use".to_string()], Some(seconds(10))));
        assert_eq!(failures.settle(&key, vec![]), (vec![], None));
        assert!(failures.services.is_empty());
    }
}
