//! Turns on the guests' threads: how many guests of one container run, or stand in the threads'
//! queue to run, at once.
//!
//! The threads take turns between tasks, and an HTTP handler has a task for each request: without
//! this a container of 512 busy instances would get 512 turns to its neighbour's one. The others
//! wait here, in order, and cost the threads nothing.
//!
//! A guest that is busy comes back at once after its epoch, so it keeps its turn while it stands in
//! the threads' queue, unless others wait: then its turn is theirs and it waits behind them. A turn
//! is handed to the one who waited longest. Should that one never come to take it (what
//! polls it has stopped to), its turn is given on after a while: nothing waits for ever.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a turn that was given waits to be taken. Longer than a queue of busy threads.
pub const GRANT_LIMIT: Duration = Duration::from_millis(250);

/// The turns of one container.
pub struct Turns {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Turns taken or given.
    busy: usize,
    next_ticket: u64,
    waiting: VecDeque<(u64, Waker)>,
    given: VecDeque<Given>,
}

/// A turn that was given and not yet taken.
struct Given {
    ticket: u64,
    at: Instant,
    /// It has stood in the threads' queue behind everybody else's.
    queued: bool,
}

/// A place in the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Turns {
    /// `most`: guests of the container that run at once, at least 1.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), state: Mutex::default() }
    }

    /// Takes a turn, which [`Self::done`] or [`Self::done_for_now`] ends; pending while others have
    /// theirs. `ticket` is kept by the caller between calls and given to [`Self::leave`] if it does
    /// not come again.
    pub fn poll(&self, ticket: &mut Option<Ticket>, cx: &Context<'_>) -> Poll<()> {
        let mut woken = Vec::new();
        let mut state = self.state.lock();
        self.expire(&mut state, &mut woken);
        let polled = self.poll_locked(&mut state, ticket, cx);
        drop(state);
        wake(woken);
        polled
    }

    fn poll_locked(
        &self,
        state: &mut State,
        ticket: &mut Option<Ticket>,
        cx: &Context<'_>,
    ) -> Poll<()> {
        if let Some(Ticket(mine)) = *ticket {
            if let Some(at) = state.given.iter().position(|given| given.ticket == mine) {
                // tokio runs what a task woke before anything else. Whoever gets a turn so would
                // pass it on the same way, past the tasks of other containers: to the end first.
                if !std::mem::replace(&mut state.given[at].queued, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                state.given.remove(at);
                *ticket = None;
                return Poll::Ready(());
            }
            if let Some((_, waker)) = state.waiting.iter_mut().find(|(ticket, _)| *ticket == mine) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            // Came too late for its turn: back to the end.
        }
        if state.busy < self.most && state.waiting.is_empty() {
            state.busy += 1;
            *ticket = None;
            return Poll::Ready(());
        }
        let mine = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back((mine, cx.waker().clone()));
        *ticket = Some(Ticket(mine));
        Poll::Pending
    }

    /// Ends a turn of a guest that wants another one at once; its place in the queue.
    pub fn done_for_now(&self, cx: &Context<'_>) -> Ticket {
        let mut woken = Vec::new();
        let mut state = self.state.lock();
        let mine = state.next_ticket;
        state.next_ticket += 1;
        if state.waiting.is_empty() {
            // It goes to the end of the threads' queue by yielding.
            state.given.push_back(Given { ticket: mine, at: Instant::now(), queued: true });
        } else {
            state.waiting.push_back((mine, cx.waker().clone()));
            state.busy -= 1;
            self.give(&mut state, &mut woken);
        }
        drop(state);
        wake(woken);
        Ticket(mine)
    }

    /// Ends a turn.
    pub fn done(&self) {
        let mut woken = Vec::new();
        let mut state = self.state.lock();
        state.busy -= 1;
        self.give(&mut state, &mut woken);
        drop(state);
        wake(woken);
    }

    /// Gives a place up.
    pub fn leave(&self, Ticket(mine): Ticket) {
        let mut woken = Vec::new();
        let mut state = self.state.lock();
        state.waiting.retain(|(ticket, _)| *ticket != mine);
        if let Some(at) = state.given.iter().position(|given| given.ticket == mine) {
            state.given.remove(at);
            state.busy -= 1;
            self.give(&mut state, &mut woken);
        }
        drop(state);
        wake(woken);
    }

    /// Gives free turns to those who wait; the caller wakes them when it has let go of the lock.
    fn give(&self, state: &mut State, woken: &mut Vec<Waker>) {
        while state.busy < self.most
            && let Some((ticket, waker)) = state.waiting.pop_front()
        {
            state.busy += 1;
            state.given.push_back(Given { ticket, at: Instant::now(), queued: false });
            woken.push(waker);
        }
    }

    fn expire(&self, state: &mut State, woken: &mut Vec<Waker>) {
        while state.given.front().is_some_and(|given| given.at.elapsed() > GRANT_LIMIT) {
            state.given.pop_front();
            state.busy -= 1;
            self.give(state, woken);
        }
    }
}

fn wake(woken: Vec<Waker>) {
    for waker in woken {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn turns_go_round_and_none_is_lost() {
        let turns = Turns::new(1);
        let counts: Vec<Arc<Count>> = (0..3).map(|_| Arc::default()).collect();
        let wakers: Vec<Waker> = counts.iter().map(|count| count.clone().into()).collect();
        let mut tickets: Vec<Option<Ticket>> = (0..3).map(|_| None).collect();
        // Once more where a turn was given: the first time it goes to the end of the queue.
        let poll = |tickets: &mut Vec<Option<Ticket>>, n: usize| {
            let cx = Context::from_waker(&wakers[n]);
            turns.poll(&mut tickets[n], &cx).is_ready()
                || turns.poll(&mut tickets[n], &cx).is_ready()
        };
        let woken = |n: usize| counts[n].0.load(Ordering::SeqCst);
        assert!(poll(&mut tickets, 0));
        assert!(!poll(&mut tickets, 1) && !poll(&mut tickets, 2) && !poll(&mut tickets, 1));
        turns.done();
        assert_eq!((woken(1), woken(2)), (1, 0), "who waited longest is next");
        assert!(!poll(&mut tickets, 0), "the turn is given, though not yet taken");
        assert!(poll(&mut tickets, 1));
        turns.done();
        // Who goes away gives its turn on.
        turns.leave(tickets[2].take().expect("it waits"));
        assert_eq!(woken(0), 1);
        assert!(!poll(&mut tickets, 1));
        // And so does who does not come.
        std::thread::sleep(GRANT_LIMIT + Duration::from_millis(1));
        assert!(!poll(&mut tickets, 2));
        assert_eq!(woken(1), 3, "by itself, too, to stand in the queue");
        assert!(poll(&mut tickets, 1));
        assert!(!poll(&mut tickets, 0), "late: at the end again");
        turns.done();
        assert!(poll(&mut tickets, 2));
        turns.done();
        assert!(poll(&mut tickets, 0));
        turns.done();
        assert_eq!(turns.state.lock().busy, 0);
        // Busy guests keep their turn as long as nobody waits for it.
        let done_for_now = |n: usize| Some(turns.done_for_now(&Context::from_waker(&wakers[n])));
        assert!(poll(&mut tickets, 0));
        tickets[0] = done_for_now(0);
        assert!(!poll(&mut tickets, 1), "the other stands in the threads' queue");
        assert!(poll(&mut tickets, 0));
        tickets[0] = done_for_now(0);
        assert!(!poll(&mut tickets, 0) && poll(&mut tickets, 1));
        turns.done();
        assert!(poll(&mut tickets, 0));
        tickets[0] = done_for_now(0);
        turns.leave(tickets[0].take().expect("a place"));
        assert_eq!(turns.state.lock().busy, 0);
    }
}
