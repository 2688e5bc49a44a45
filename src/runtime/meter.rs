//! Processor time: measured, shared fairly, limited, and taken away.
//!
//! Every guest runs inside a [`Metered`] future. It counts the time its guest spends in a poll,
//! holds the guest back when its container has used up its budget of the period or others are to run
//! first ([`Floor`]), ends it when the container is killed, and turns a panic of a host function into a
//! result. What makes a guest that never calls the host return from a poll at all is the [`Ticker`]:
//! it advances the engine's epoch, and every store yields at each step.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;
use wasmtime::{Engine, EngineWeak};

use super::floor::{Floor, Share, Ticket};

/// How long a guest may run before it lets others run: the epoch's length. Also bounds how long
/// a kill of a busy guest takes.
pub const TICK: Duration = Duration::from_millis(2);

/// Ticks without any running guest after which the ticker sleeps until one runs: an idle process
/// has no wake-ups.
const IDLE_TICKS: u32 = 50;

/// The period in which a CPU limit is a budget, as in Linux's CFS bandwidth control.
pub const CPU_PERIOD: Duration = Duration::from_millis(100);

/// Advances the epoch of engines while guests run; one thread in a process.
pub struct Ticker {
    shared: Arc<TickerShared>,
    thread: std::thread::Thread,
}

struct TickerShared {
    /// Who runs next on the threads.
    floor: Floor,
    /// Guests being polled right now.
    polling: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    /// Starts the thread, for guests that run on so many others; it ends when the ticker is dropped
    /// or the engines are gone.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(engines: &[&Engine], guest_threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(TickerShared {
            floor: Floor::new(guest_threads),
            polling: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let engines: Vec<EngineWeak> = engines.iter().map(|engine| engine.weak()).collect();
        let its = shared.clone();
        let thread = std::thread::Builder::new()
            .name("guest-ticker".to_owned())
            .spawn(move || tick(&engines, &its))?
            .thread()
            .clone();
        Ok(Self { shared, thread })
    }

    fn enter(&self) {
        // With the ticker's own order (set `parked`, then read `polling`) one of the two sees the
        // other: no guest runs while the ticker sleeps.
        self.shared.polling.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    fn leave(&self) {
        self.shared.polling.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn tick(engines: &[EngineWeak], shared: &TickerShared) {
    let mut idle_ticks = 0;
    while !shared.stopped.load(Ordering::SeqCst) {
        std::thread::sleep(TICK);
        let mut there = 0;
        for engine in engines.iter().filter_map(EngineWeak::upgrade) {
            engine.increment_epoch();
            there += 1;
        }
        if there == 0 {
            return;
        }
        if shared.floor.expire(Instant::now()) || shared.polling.load(Ordering::SeqCst) > 0 {
            idle_ticks = 0;
            continue;
        }
        idle_ticks += 1;
        if idle_ticks < IDLE_TICKS {
            continue;
        }
        shared.parked.store(true, Ordering::SeqCst);
        while shared.polling.load(Ordering::SeqCst) == 0 && !shared.stopped.load(Ordering::SeqCst) {
            std::thread::park();
        }
        shared.parked.store(false, Ordering::SeqCst);
        idle_ticks = 0;
    }
}

thread_local! {
    /// Whether the guest polled on this thread has had its epoch.
    static YIELDED: Cell<bool> = const { Cell::new(false) };
}

/// Tells that the running guest yields because its epoch is over: it wants to run again at once.
pub fn note_yield() {
    YIELDED.set(true);
}

/// A container's processor time and its life; shared by all of its guests.
pub struct Meter {
    ticker: Arc<Ticker>,
    used_nanos: AtomicU64,
    budget: Option<Mutex<Budget>>,
    share: Arc<Share>,
    killed: AtomicBool,
}

struct Budget {
    nanos_per_period: u64,
    period_started: Instant,
    /// Used in this period, with what earlier periods overran.
    used_nanos: u64,
}

impl Meter {
    /// `limit_millicores`: thousandths of a core that the container may use, at least 1;
    /// `share`: what it gets beside others.
    pub fn new(ticker: Arc<Ticker>, limit_millicores: Option<u64>, share: Arc<Share>) -> Self {
        let budget = limit_millicores.map(|millicores| {
            let period = CPU_PERIOD.as_nanos() as u64;
            Mutex::new(Budget {
                nanos_per_period: (period / 1000).saturating_mul(millicores.max(1)),
                period_started: Instant::now(),
                used_nanos: 0,
            })
        });
        let (used_nanos, killed) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { ticker, used_nanos, budget, share, killed }
    }

    /// Processor time used so far, in microseconds.
    pub fn cpu_micros(&self) -> u64 {
        self.used_nanos.load(Ordering::Relaxed) / 1000
    }

    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// From now on every [`Metered`] future of this container ends when it is next polled; the
    /// caller wakes them.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }

    /// `Some`: the budget is used up; poll again then.
    fn wait_until(&self, now: Instant) -> Option<Instant> {
        let mut budget = self.budget.as_ref()?.lock();
        budget.advance(now);
        (budget.used_nanos >= budget.nanos_per_period).then(|| budget.period_started + CPU_PERIOD)
    }

    fn floor(&self) -> &Floor {
        &self.ticker.shared.floor
    }

    /// Counts a turn. Answers how long it was.
    fn charge(&self, started: Instant) -> Duration {
        let now = Instant::now();
        let ran = now.duration_since(started);
        let nanos = ran.as_nanos() as u64;
        self.used_nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(budget) = &self.budget {
            let mut budget = budget.lock();
            budget.advance(now);
            budget.used_nanos = budget.used_nanos.saturating_add(nanos);
        }
        ran
    }
}

impl Budget {
    /// Moves to the period that holds `now`. An overrun is paid back; what was left is not kept.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.period_started);
        let periods = (elapsed.as_nanos() / CPU_PERIOD.as_nanos()) as u64;
        if periods == 0 {
            return;
        }
        let refill = self.nanos_per_period.saturating_mul(periods);
        self.used_nanos = self.used_nanos.saturating_sub(refill);
        let whole = CPU_PERIOD.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX));
        self.period_started += whole;
    }
}

/// How a [`Metered`] future ended early.
#[derive(Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// The container was killed.
    Killed,
    /// A host function panicked; the text is the panic's.
    Panicked(String),
}

/// A guest's future under its container's meter.
pub struct Metered<T> {
    meter: Arc<Meter>,
    guest: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    /// The place in line.
    ticket: Option<Ticket>,
    /// Waits for the next period; made when first held back.
    rest: Option<Pin<Box<Sleep>>>,
}

impl<T> Metered<T> {
    pub fn new(meter: Arc<Meter>, guest: impl Future<Output = T> + Send + 'static) -> Self {
        Self { meter, guest: Some(Box::pin(guest)), ticket: None, rest: None }
    }

    /// Pending until the container's budget allows to run.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Another guest of the container may have used up the new period already: look again.
        while let Some(until) = self.meter.wait_until(Instant::now()) {
            ready!(self.poll_sleep(until, cx));
        }
        Poll::Ready(())
    }

    fn poll_sleep(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let until = until.into();
        let rest = self.rest.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if rest.deadline() != until {
            rest.as_mut().reset(until);
        }
        rest.as_mut().poll(cx)
    }

    /// Who may not run takes no place from others.
    fn leave_line(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.meter.floor().leave(&self.meter.share, ticket);
        }
    }
}

impl<T> Future for Metered<T> {
    type Output = Result<T, Interrupted>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.meter.is_killed() {
            this.guest = None;
            return Poll::Ready(Err(Interrupted::Killed));
        }
        if this.poll_rest(cx).is_pending() {
            this.leave_line();
            return Poll::Pending;
        }
        ready!(this.meter.floor().poll(&this.meter.share, &mut this.ticket, cx));
        let Some(guest) = this.guest.as_mut() else {
            this.meter.floor().done(&this.meter.share, Duration::ZERO, None);
            return Poll::Ready(Err(Interrupted::Killed));
        };
        let started = Instant::now();
        YIELDED.set(false);
        this.meter.ticker.enter();
        let polled = catch_unwind(AssertUnwindSafe(|| guest.as_mut().poll(cx)));
        this.meter.ticker.leave();
        let ran = this.meter.charge(started);
        let yielded = YIELDED.take() && matches!(polled, Ok(Poll::Pending));
        let goes_on = yielded && this.poll_rest(cx).is_ready();
        this.ticket = this.meter.floor().done(&this.meter.share, ran, goes_on.then_some(&*cx));
        match polled {
            Ok(Poll::Pending) if this.meter.is_killed() => {
                this.guest = None;
                Poll::Ready(Err(Interrupted::Killed))
            }
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => {
                this.guest = None;
                Poll::Ready(Ok(value))
            }
            Err(panic) => {
                this.guest = None;
                Poll::Ready(Err(Interrupted::Panicked(panic_text(&*panic))))
            }
        }
    }
}

impl<T> Drop for Metered<T> {
    fn drop(&mut self) {
        self.leave_line();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(millicores: u64) -> Budget {
        let nanos_per_period = CPU_PERIOD.as_nanos() as u64 / 1000 * millicores;
        Budget { nanos_per_period, period_started: Instant::now(), used_nanos: 0 }
    }

    #[test]
    fn a_budget_is_refilled_each_period_and_overruns_are_paid_back() {
        let mut budget = budget(100);
        let start = budget.period_started;
        budget.used_nanos = 25_000_000;
        budget.advance(start + CPU_PERIOD / 2);
        assert_eq!(budget.used_nanos, 25_000_000, "the same period");
        budget.advance(start + CPU_PERIOD);
        assert_eq!(budget.used_nanos, 15_000_000);
        budget.advance(start + CPU_PERIOD * 2 + CPU_PERIOD / 3);
        assert_eq!(budget.used_nanos, 5_000_000);
        assert_eq!(budget.period_started, start + CPU_PERIOD * 2);
        budget.advance(start + CPU_PERIOD * 9);
        assert_eq!(budget.used_nanos, 0, "what is left over is not saved up");
    }

    /// Wants to run for ever: some time, and then again.
    fn busy(time: Duration) -> impl Future<Output = ()> + Send {
        std::future::poll_fn(move |_| {
            let begun = Instant::now();
            while begun.elapsed() < time {
                std::hint::spin_loop();
            }
            note_yield();
            Poll::Pending
        })
    }

    #[tokio::test]
    async fn who_rests_holds_no_place() {
        let engine = crate::engine::new_engine().expect("an engine");
        let ticker = Arc::new(Ticker::start(&[&engine], 1).expect("a thread"));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // Little weight, and some time on its account: it is due later than the other.
        let small = Arc::new(Meter::new(ticker.clone(), None, Share::new(None, 2)));
        let mut first = std::pin::pin!(Metered::new(small.clone(), busy(Duration::from_millis(5))));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        // The second one finds the only place taken or given, and waits; it runs when it may.
        let limited = Arc::new(Meter::new(ticker, Some(1), Share::new(Some(1000), 1)));
        let mut second =
            std::pin::pin!(Metered::new(limited.clone(), busy(Duration::from_millis(1))));
        assert!((0..4).all(|_| second.as_mut().poll(&mut cx).is_pending()));
        assert!(limited.cpu_micros() > 0);
        // Its budget is used up for ten periods.
        let used = small.cpu_micros();
        assert!((0..2).all(|_| first.as_mut().poll(&mut cx).is_pending()));
        assert!(small.cpu_micros() > used, "the place is free");
    }

    #[tokio::test]
    async fn a_panic_of_the_host_is_a_result() {
        let engine = crate::engine::new_engine().expect("an engine");
        let ticker = Arc::new(Ticker::start(&[&engine], 1).expect("a thread"));
        let meter = Arc::new(Meter::new(ticker, None, Share::new(None, 1)));
        let got = Metered::new(meter.clone(), async { panic!("oh {}", 1) }).await;
        let (): () = match got {
            Err(Interrupted::Panicked(text)) => assert_eq!(text, "oh 1"),
            other => panic!("{other:?}"),
        };
        meter.kill();
        let got: Result<(), _> = Metered::new(meter, std::future::pending()).await;
        assert_eq!(got, Err(Interrupted::Killed));
    }
}
