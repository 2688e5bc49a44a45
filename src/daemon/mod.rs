//! The programs put together: which parts run in a process, with which settings. The only room
//! that sees all others, and with `cli` the only one that reads flags and the environment.

mod args;
mod data_dir;
mod network;

use std::process::ExitCode;
