//! The seeded simulation: the real API server over a memory store, the real controllers and the real
//! scheduler over an API that misbehaves, fake agents, and virtual time, in one thread. Shared, by
//! its path, by `tests/it/sim.rs` and `examples/simulate.rs`, so that there is one of it and none
//! in the library.
//!
//! ```text
//!   story (a seed's steps, as data) ─▶ stage (plays it in a world) ─▶ outcome ─▶ shrink
//!                                        │
//!   world: API server, store, clock ─────┼─▶ truth: what must hold, on every change of the store
//!   faulty: the API that fails           └─▶ rest: when everything is as asked
//!   fakes: node agents
//! ```

pub mod bugs;
pub mod clock;
pub mod fakes;
pub mod faulty;
pub mod objects;
pub mod pausable;
pub mod shrink;
pub mod stage;
pub mod story;
pub mod themes;
pub mod truth;
pub mod world;
