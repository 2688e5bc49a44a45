//! The one test program; each module is a layer or a room.

mod alone;
mod api;
mod apipure;
mod checks;
mod cluster;
mod compiling;
mod conformance;
mod documents;
mod e2e;
mod edge;
mod fuzz;
mod interop;
mod kinds;
mod node;
mod plans;
mod rows;
mod runtime;
mod scheduler;
mod sim;
mod store;
mod tidy;
