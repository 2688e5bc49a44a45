//! A switch for bugs that are planted on purpose, so that tests can show that they would be found. It
//! stands in debug builds and behind the feature `planted` only: elsewhere [`planted`] is the
//! constant `false`, and nothing of a planted bug is compiled in.
//!
//! A bug is named by what it does wrong. It is on for one thread, so that tests beside each other do
//! not notice.

#[cfg(any(debug_assertions, feature = "planted"))]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Plants a bug in this thread, or none.
    pub fn plant(bug: Option<&'static str>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted in this thread.
    pub fn planted(bug: &str) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(debug_assertions, feature = "planted"))]
pub use switch::{plant, planted};

/// No bug is planted.
#[cfg(not(any(debug_assertions, feature = "planted")))]
#[inline(always)]
pub const fn planted(_bug: &str) -> bool {
    false
}
