//! What std could have had: time that can be virtual, back-off, a coalescing key queue, locks by key,
//! tasks with one way to shut down, directories that outlive a power failure, files for their owner
//! alone, ids that can be seeded, numbers for Prometheus, what idle threads do, limits that a process
//! sets itself, answers to HEAD, how TCP connections end, errors in words, and a walk below a directory
//! that no link leads out of. Knows nothing of Kubernetes.

pub mod backoff;
pub mod beneath;
pub mod causes;
pub mod clock;
pub mod confine;
pub mod dirty_set;
pub mod durable;
pub mod durations;
pub mod frames;
pub mod head;
pub mod ids;
pub mod keyed_locks;
pub mod metrics;
#[doc(hidden)]
pub mod planted;
pub mod private;
pub mod rest;
pub mod tasks;
pub mod tcp;

pub use clock::{Clock, SharedClock};
pub use tasks::Tasks;
