//! The one test program; each module is a layer or a room.
mod apipure;
mod tidy;
