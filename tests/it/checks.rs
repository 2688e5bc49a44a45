//! Checks over histories: what clients and watchers saw of the real program, under concurrency and
//! kill -9, compared with what the API promises.
//!
//! - Single objects are strictly serializable: every get, create, update and deletion takes effect
//!   at one moment between its call and its answer, in the order of resource versions.
//! - Watches are ordered, unique, atomic, resumable and reliable (etcd's guarantees, as etcd's and
//!   Kubernetes' robustness tests check them), and their bookmarks hold.
//!
//! The checkers are tested too: with histories that are right, and with ones that must not pass.

mod crashes;
mod history;
mod registers;
mod watches;
