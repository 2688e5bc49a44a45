//! The rules of the election on a hand-made clock.

use std::pin::pin;

use futures::FutureExt;

use super::*;
use crate::client::WatchEvent;
use crate::client::cache::Cache;

const AT: Timestamp = Timestamp::UNIX_EPOCH;

/// A lease, and what a store makes of writes to it.
#[derive(Default)]
struct Place {
    lease: Option<Lease>,
    revision: u64,
}

impl Place {
    /// One look of an elector with its write; tells whether it leads afterwards.
    fn look(&mut self, elector: &mut Elector, now: Instant) -> bool {
        match elector.step(self.lease.as_ref(), now, AT) {
            Step::Wait => {}
            Step::Create(lease) | Step::Update(lease) => {
                let answer = self.put(lease);
                elector.wrote(&answer, now);
            }
        }
        elector.term(now).is_some()
    }

    fn put(&mut self, mut lease: Lease) -> Lease {
        self.revision += 1;
        lease.metadata.uid.get_or_insert_with(|| "u".into());
        lease.metadata.resource_version = Some(self.revision.to_string());
        self.lease.insert(lease).clone()
    }

    fn transitions(&self) -> i32 {
        self.lease.as_ref().and_then(|l| l.spec.as_ref()?.lease_transitions).unwrap_or(-1)
    }
}

fn elector(identity: &str) -> Elector {
    Elector::new("x", identity.into(), Timing::default())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_first_leads_and_another_waits_for_as_long_as_it_sees_no_renewal() {
    let (mut place, start) = (Place::default(), Instant::now());
    let (mut a, mut b) = (elector("a"), elector("b"));
    assert!(place.look(&mut a, start));
    assert_eq!(place.transitions(), 0);
    assert!(!place.look(&mut b, start + seconds(1)));
    // A renewal begins b's wait anew, whenever it was really written.
    assert!(place.look(&mut a, start + seconds(10)));
    assert!(!place.look(&mut b, start + seconds(29)));
    assert!(!place.look(&mut b, start + seconds(58)), "29 s after b saw it");
    assert!(place.look(&mut b, start + seconds(59)));
    assert_eq!(place.transitions(), 1);
    assert!(a.term(start + seconds(31)).is_none(), "a's own clock ended its term long before");
    assert!(!place.look(&mut a, start + seconds(60)));
}

#[test]
fn a_renewal_keeps_the_term_and_its_fence() {
    let (mut place, start) = (Place::default(), Instant::now());
    let mut a = elector("a");
    place.look(&mut a, start);
    let (first, _) = a.term(start).unwrap();
    place.look(&mut a, start + seconds(10));
    let (second, until) = a.term(start + seconds(10)).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(until, start + seconds(30));
    assert_eq!(place.transitions(), 0);
}

#[test]
fn a_restart_takes_over_at_once_and_ends_what_was_before() {
    let (mut place, start) = (Place::default(), Instant::now());
    let mut before = elector("a");
    place.look(&mut before, start);
    let (fence, _) = before.term(start).unwrap();
    let mut after = elector("a");
    assert!(place.look(&mut after, start + seconds(1)));
    assert_eq!(place.transitions(), 1);
    assert!(!fence.lasts(place.revision, || place.lease.clone()));
}

#[test]
fn who_releases_lets_another_lead_at_once_and_only_a_holder_releases() {
    let (mut place, start) = (Place::default(), Instant::now());
    let (mut a, mut b) = (elector("a"), elector("b"));
    place.look(&mut a, start);
    place.look(&mut b, start);
    assert_eq!(b.release(&place.lease.clone().unwrap(), AT), None);
    let released = a.release(&place.lease.clone().unwrap(), AT).unwrap();
    place.put(released);
    assert!(a.term(start).is_none());
    assert!(place.look(&mut b, start + seconds(1)));
    let (fence, _) = b.term(start + seconds(1)).unwrap();
    assert_eq!((fence.holder.as_str(), fence.transitions), ("b", 1));
}

#[test]
fn a_lease_made_anew_is_another_term() {
    let (mut place, start) = (Place::default(), Instant::now());
    let mut a = elector("a");
    place.look(&mut a, start);
    let (fence, _) = a.term(start).unwrap();
    place.lease = None;
    assert!(place.look(&mut a, start + seconds(2)));
    place.lease.as_mut().unwrap().metadata.uid = Some("another".into());
    assert!(!fence.lasts(place.revision, || place.lease.clone()));
}

#[test]
fn wild_values_of_a_lease_harm_nobody() {
    let start = Instant::now();
    for (transitions, duration) in [(Some(i32::MAX), Some(i32::MIN)), (Some(-5), None)] {
        let mut place = Place::default();
        let spec = LeaseSpec {
            holder_identity: Some("somebody".into()),
            lease_transitions: transitions,
            lease_duration_seconds: duration,
            ..LeaseSpec::default()
        };
        place.put(Lease { spec: Some(spec), ..Lease::default() });
        let mut a = elector("a");
        assert!(place.look(&mut a, start), "a lease of no duration is free");
        assert!(place.transitions() >= 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_term_is_entered_as_soon_as_the_cache_shows_its_beginning() {
    let began = Instant::now();
    let (cache, gate) = (Cache::new(), Gate::default());
    cache.add::<Lease>();
    cache.replace(Vec::<Lease>::new(), 3);
    let mut entering = pin!(gate.enter(&cache));
    assert_eq!((&mut entering).now_or_never(), None, "there is no term");
    let metadata = ObjectMeta { resource_version: Some("5".into()), ..ObjectMeta::default() };
    let fence = Arc::new(Fence::of(&Lease { metadata, spec: None }));
    gate.set(Some((fence.clone(), began + seconds(60))));
    assert_eq!((&mut entering).now_or_never(), None, "earlier writes may be missing");
    let entered = async {
        tokio::task::yield_now().await;
        cache.apply::<Lease>(&WatchEvent::Bookmark("4".into()));
        tokio::task::yield_now().await;
        cache.apply::<Lease>(&WatchEvent::Bookmark("5".into()));
    };
    let (entered, ()) = tokio::join!(entering, entered);
    assert_eq!((entered, began.elapsed()), (fence, Duration::ZERO));
}
