//! The one test program; each module is a layer or a room.

mod api;
mod kinds;
mod plans;
mod sim;
mod tidy;
