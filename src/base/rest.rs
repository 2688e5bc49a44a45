//! What a thread does when it has run out of work: memory that others freed for it is given back to the
//! system. An allocator with a heap for each thread notices such memory only when that thread allocates
//! again, and after a burst it may not for hours.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// No thread does it more often: it looks at all of the thread's pages, some microseconds for each
/// megabyte.
const PERIOD: Duration = Duration::from_secs(10);

static WORK: OnceLock<fn()> = OnceLock::new();

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets what is done, once for the process.
pub fn set(work: fn()) {
    // The first one stays.
    let _ = WORK.set(work);
}

/// For a thread that is about to wait.
pub fn before_waiting() {
    let Some(work) = WORK.get() else { return };
    let now = Instant::now();
    if LAST.get().is_some_and(|last| now.duration_since(last) < PERIOD) {
        return;
    }
    LAST.set(Some(now));
    work();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static DONE: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn a_thread_does_it_now_and_then() {
        before_waiting();
        set(|| {
            DONE.fetch_add(1, Ordering::SeqCst);
        });
        for _ in 0..1000 {
            before_waiting();
        }
        // Other threads of the tests do it as well.
        assert!(DONE.load(Ordering::SeqCst) >= 1);
        let again = Instant::now().checked_sub(2 * PERIOD).expect("the machine is up longer");
        LAST.set(Some(again));
        let before = DONE.load(Ordering::SeqCst);
        before_waiting();
        assert!(DONE.load(Ordering::SeqCst) > before);
    }
}
