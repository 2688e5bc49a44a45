//! Who runs next on the guests' threads.
//!
//! The threads take turns between tasks, and know nothing of containers: thirty busy programs would get
//! thirty turns to a neighbour's one, and a handler of 512 busy instances 512. So a guest that wants
//! to run, and finds as many at it as there are threads, waits here and costs the threads nothing.
//!
//! Containers stand in line by the time that they have had, divided by their weight, which is the
//! processor time that their pods request (start-time fair queueing, Goyal, Vin and Cheng 1996). One
//! that comes back from a wait stands where the others are: what it did not use is not saved up. The
//! guests of one container go in order.
//!
//! A place that becomes free is given to the first in line. Should that one never come to take it (what
//! polls it has stopped to), it is given on after a while, and the time is on that one's account:
//! nothing waits for ever, and nobody keeps others waiting for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a place that was given waits to be taken: some turns of a busy thread.
const GRANT_LIMIT: Duration = Duration::from_millis(20);
/// What containers count that request less, in millicores.
const LEAST_WEIGHT: u64 = 10;
/// Virtual time of a container of weight 1 that ran for a nanosecond.
const UNIT: u64 = 100;
/// How far a container may stay behind that wants to run all the time, and has fewer guests than there
/// are threads: two turns of one of the least weight.
const CREDIT: u64 = 4_000_000 * UNIT / LEAST_WEIGHT;

/// The places on the guests' threads.
pub struct Floor {
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Places in use.
    running: usize,
    /// Virtual time: where the container stood that last began to run.
    now: u64,
    tickets: u64,
    /// Containers of which somebody waits who may run, by when each is due.
    line: BTreeMap<(u64, u64), Arc<Share>>,
    /// Places that were given and are not yet taken, the oldest first.
    given: VecDeque<Given>,
}

struct Given {
    share: Arc<Share>,
    ticket: u64,
    waker: Waker,
    at: Instant,
    /// When its container was due.
    due: u64,
    /// It has stood in the threads' queue behind everybody else's.
    queued: bool,
}

/// A container's part of the time.
pub struct Share {
    weight: u64,
    /// Guests that run at once.
    most: usize,
    /// Locked by who holds the floor's lock, and never else.
    state: Mutex<ShareState>,
}

#[derive(Default)]
struct ShareState {
    /// Until when its time reaches, in virtual time.
    until: u64,
    /// Places that its guests have or were given.
    busy: usize,
    waiting: VecDeque<(u64, Waker)>,
    /// Its key in the line.
    place: Option<(u64, u64)>,
}

/// A guest's place among those who wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Share {
    /// `requested_millicores`: thousandths of a core that it should get beside others; `most`: guests of
    /// it that run at once, at least 1.
    pub fn new(requested_millicores: Option<u64>, most: usize) -> Arc<Share> {
        let weight = requested_millicores.unwrap_or(0).max(LEAST_WEIGHT);
        Arc::new(Share { weight, most: most.max(1), state: Mutex::default() })
    }

    fn cost(&self, time: Duration) -> u64 {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        nanos.saturating_mul(UNIT) / self.weight
    }
}

impl Floor {
    /// `places`: the guests' threads, at least 1.
    pub fn new(places: usize) -> Floor {
        Floor { places: places.max(1), state: Mutex::default() }
    }

    /// Takes a place, which [`Self::done`] ends; pending while others have them all. `ticket` is kept by
    /// the caller between calls and given to [`Self::leave`] if it does not come again.
    pub fn poll(
        &self,
        share: &Arc<Share>,
        ticket: &mut Option<Ticket>,
        context: &Context<'_>,
    ) -> Poll<()> {
        let mut state = self.state.lock();
        let mut own = share.state.lock();
        if let Some(Ticket(mine)) = *ticket {
            if let Some(at) = state.given.iter().position(|given| given.ticket == mine) {
                // tokio runs what a task woke before anything else. Whoever gets a place so would
                // pass it on the same way, past sockets and timers: to the end first.
                if !std::mem::replace(&mut state.given[at].queued, true) {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let due = state.given.remove(at).map_or(0, |given| given.due);
                *ticket = None;
                state.begin(&mut own, due);
                return Poll::Ready(());
            }
            if let Some((_, waker)) = own.waiting.iter_mut().find(|(one, _)| *one == mine) {
                waker.clone_from(context.waker());
                return Poll::Pending;
            }
            // Came too late for its place: it asks anew.
        }
        let is_idle = own.busy == 0 && own.waiting.is_empty();
        let due = own.until.max(if is_idle { state.now } else { state.oldest() });
        own.until = due;
        let mut is_free = own.busy < share.most && own.waiting.is_empty();
        if is_free && state.running + state.given.len() >= self.places {
            drop(own);
            is_free = state.take_back(due);
            own = share.state.lock();
        }
        if is_free {
            own.busy += 1;
            *ticket = None;
            state.begin(&mut own, due);
            return Poll::Ready(());
        }
        *ticket = Some(state.wait(share, &mut own, context.waker()));
        Poll::Pending
    }

    /// Ends a turn of this length. A guest that wants to go on at once has a place in line then.
    pub fn done(
        &self,
        share: &Arc<Share>,
        ran: Duration,
        goes_on: Option<&Context<'_>>,
    ) -> Option<Ticket> {
        let mut state = self.state.lock();
        let mut own = share.state.lock();
        state.running -= 1;
        own.busy -= 1;
        own.until = own.until.saturating_add(share.cost(ran));
        let ticket = goes_on.map(|context| state.wait(share, &mut own, context.waker()));
        state.stand(share, &mut own);
        drop(own);
        let woken = self.give(&mut state, ticket.as_ref(), Instant::now);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        ticket
    }

    /// Gives a place up.
    pub fn leave(&self, share: &Arc<Share>, Ticket(mine): Ticket) {
        let mut state = self.state.lock();
        let mut own = share.state.lock();
        own.waiting.retain(|(ticket, _)| *ticket != mine);
        if let Some(at) = state.given.iter().position(|given| given.ticket == mine) {
            state.given.remove(at);
            own.busy -= 1;
        }
        state.stand(share, &mut own);
        drop(own);
        let woken = self.give(&mut state, None, Instant::now);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Gives on what was not taken until now, at the cost of who was given it. Answers whether anything
    /// is given that is not yet taken: then it is to be called again.
    pub fn expire(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let mut woken = Vec::new();
        while let Some(given) = state.given.front()
            && let wasted = now.saturating_duration_since(given.at)
            && wasted > GRANT_LIMIT
        {
            let Some(Given { share, .. }) = state.given.pop_front() else { break };
            let mut own = share.state.lock();
            own.busy -= 1;
            own.until = own.until.max(state.now).saturating_add(share.cost(wasted));
            state.stand(&share, &mut own);
            drop(own);
            woken.extend(self.give(&mut state, None, || now));
        }
        let has_given = !state.given.is_empty();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        has_given
    }

    /// Gives free places to those who wait; the caller wakes them when it has let go of the lock. Who
    /// is just about to stand in the threads' queue need not go there twice.
    /// The time is asked for only where somebody waits.
    fn give(
        &self,
        state: &mut State,
        yields: Option<&Ticket>,
        now: impl Fn() -> Instant,
    ) -> Vec<Waker> {
        let mut woken = Vec::new();
        while state.running + state.given.len() < self.places
            && let Some(((due, _), share)) = state.line.pop_first()
        {
            let mut own = share.state.lock();
            own.place = None;
            let Some((ticket, waker)) = own.waiting.pop_front() else { continue };
            own.busy += 1;
            state.stand(&share, &mut own);
            drop(own);
            woken.push(waker.clone());
            let queued = yields.is_some_and(|yields| yields.0 == ticket);
            state.given.push_back(Given { share, ticket, waker, at: now(), due, queued });
        }
        woken
    }
}

impl State {
    /// When a container is due that has waited for long.
    fn oldest(&self) -> u64 {
        self.now.saturating_sub(CREDIT)
    }

    /// A guest of the container runs.
    fn begin(&mut self, own: &mut ShareState, due: u64) {
        self.running += 1;
        self.now = self.now.max(due);
        own.until = own.until.max(due);
    }

    fn wait(&mut self, share: &Arc<Share>, own: &mut ShareState, waker: &Waker) -> Ticket {
        let ticket = self.tickets;
        self.tickets += 1;
        own.waiting.push_back((ticket, waker.clone()));
        self.stand(share, own);
        Ticket(ticket)
    }

    /// Puts the container into the line, or out of it, as it is now.
    fn stand(&mut self, share: &Arc<Share>, own: &mut ShareState) {
        let waits = !own.waiting.is_empty() && own.busy < share.most;
        match own.place {
            None if waits => {
                // Behind those that are due at the same time.
                let key = (self.oldest().max(own.until), self.tickets);
                self.tickets += 1;
                self.line.insert(key, share.clone());
                own.place = Some(key);
            }
            Some(key) if !waits => {
                self.line.remove(&key);
                own.place = None;
            }
            _ => {}
        }
    }

    /// Frees a place for one who is due: one that was given to somebody who is due later, and who waits
    /// on.
    fn take_back(&mut self, due: u64) -> bool {
        let Some(at) = self.given.iter().position(|given| given.due > due) else { return false };
        let Some(Given { share, ticket, waker, .. }) = self.given.remove(at) else { return false };
        let mut own = share.state.lock();
        own.busy -= 1;
        own.waiting.push_front((ticket, waker));
        self.stand(&share, &mut own);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const TURN: Duration = Duration::from_millis(2);

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Guest {
        share: Arc<Share>,
        count: Arc<Count>,
        waker: Waker,
        ticket: Option<Ticket>,
        turns: usize,
    }

    fn guest(share: &Arc<Share>) -> Guest {
        let count = Arc::<Count>::default();
        Guest { share: share.clone(), waker: count.clone().into(), count, ticket: None, turns: 0 }
    }

    impl Guest {
        /// Once more where a place was given: the first time it goes to the end of the queue.
        fn poll(&mut self, floor: &Floor) -> bool {
            let context = Context::from_waker(&self.waker);
            let is_ready =
                (0..2).any(|_| floor.poll(&self.share, &mut self.ticket, &context).is_ready());
            self.turns += usize::from(is_ready);
            is_ready
        }

        fn yields(&mut self, floor: &Floor, ran: Duration) {
            let context = Context::from_waker(&self.waker);
            self.ticket = floor.done(&self.share, ran, Some(&context));
        }

        fn woken(&self) -> usize {
            self.count.0.load(Ordering::SeqCst)
        }
    }

    /// Plays guests that always want to run, until so many turns were taken.
    fn play(floor: &Floor, guests: &mut [Guest], turns: usize) {
        let mut taken = 0;
        while taken < turns {
            let mut running = Vec::new();
            for (n, guest) in guests.iter_mut().enumerate() {
                if guest.poll(floor) {
                    running.push(n);
                }
            }
            assert!(!running.is_empty() && running.len() <= floor.places);
            for n in running {
                taken += 1;
                guests[n].yields(floor, TURN);
            }
        }
    }

    #[test]
    fn time_goes_by_weight() {
        for places in [1, 2] {
            let floor = Floor::new(places);
            let mut guests: Vec<Guest> = (0..30).map(|_| guest(&Share::new(None, 2))).collect();
            guests.push(guest(&Share::new(Some(100), 2)));
            guests.push(guest(&Share::new(Some(200), 2)));
            // 30 × 10 + 100 + 200: of 600 parts.
            play(&floor, &mut guests, 6000);
            let turns: Vec<usize> = guests.iter().map(|guest| guest.turns).collect();
            assert!(turns[..30].iter().all(|n| (95..=105).contains(n)), "{turns:?}");
            assert!((980..=1020).contains(&turns[30]), "{turns:?}");
            assert!((1960..=2040).contains(&turns[31]), "{turns:?}");
        }
    }

    #[test]
    fn a_container_has_no_more_time_for_its_many_guests() {
        let floor = Floor::new(2);
        let (crowd, alone) = (Share::new(None, 2), Share::new(None, 2));
        let mut guests: Vec<Guest> = (0..64).map(|_| guest(&crowd)).collect();
        guests.push(guest(&alone));
        play(&floor, &mut guests, 1000);
        assert!((480..=520).contains(&guests[64].turns), "{}", guests[64].turns);
        let turns = guests[..64].iter().map(|guest| guest.turns);
        assert!(turns.clone().max() <= turns.min().map(|least| least + 2), "in order");
    }

    #[test]
    fn who_comes_from_a_wait_is_next_and_has_saved_nothing_up() {
        let floor = Floor::new(1);
        let (busy, idle) = (Share::new(None, 1), Share::new(None, 1));
        let (mut busy, mut idle) = (guest(&busy), guest(&idle));
        for _ in 0..1000 {
            assert!(busy.poll(&floor));
            busy.yields(&floor, TURN);
        }
        assert!(idle.poll(&floor), "before one who had its time, and was given the place");
        assert!(!busy.poll(&floor));
        idle.yields(&floor, TURN);
        let mut guests = [busy, idle];
        let before = [guests[0].turns, guests[1].turns];
        play(&floor, &mut guests, 100);
        let [first, second] = [guests[0].turns - before[0], guests[1].turns - before[1]];
        assert!(first.abs_diff(second) <= 2, "{first} and {second}");
    }

    #[test]
    fn places_go_round_and_none_is_lost() {
        let floor = Floor::new(1);
        let share = Share::new(None, 1);
        let mut guests: Vec<Guest> = (0..3).map(|_| guest(&share)).collect();
        assert!(guests[0].poll(&floor));
        assert!(!guests[1].poll(&floor) && !guests[2].poll(&floor) && !guests[1].poll(&floor));
        assert_eq!(floor.done(&share, TURN, None), None);
        assert_eq!((guests[1].woken(), guests[2].woken()), (1, 0), "who waited longest is next");
        assert!(!guests[0].poll(&floor), "the place is given, though not yet taken");
        assert!(guests[1].poll(&floor));
        floor.done(&share, TURN, None);
        // Who goes away gives its place on.
        floor.leave(&share, guests[2].ticket.take().expect("it waits"));
        assert_eq!(guests[0].woken(), 1);
        assert!(!guests[1].poll(&floor));
        // And so does who does not come.
        assert!(floor.expire(Instant::now()), "it may yet come");
        assert_eq!(guests[1].woken(), 2, "once by itself, to stand in the queue");
        assert!(floor.expire(Instant::now() + 2 * GRANT_LIMIT), "given on");
        assert_eq!(guests[1].woken(), 3);
        assert!(guests[1].poll(&floor));
        assert!(!guests[0].poll(&floor), "late: at the end again");
        floor.done(&share, TURN, None);
        assert!(guests[0].poll(&floor));
        floor.done(&share, TURN, None);
        let state = floor.state.lock();
        assert_eq!((state.running, state.given.len(), state.line.len()), (0, 0, 0));
        assert_eq!(share.state.lock().busy, 0);
    }
}
