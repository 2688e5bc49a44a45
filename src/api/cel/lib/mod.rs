//! The libraries: one file each, rows of the table of functions.

pub mod authz;
mod convert;
mod format_text;
mod formats;
pub mod json_patch;
pub mod lists;
mod net;
mod operators;
mod optional;
mod quantity;
pub mod regex;
mod semver;
mod sets;
mod strings;
pub mod time;
mod url;

use super::functions::Row;

pub fn all() -> Vec<Row> {
    let libraries: &[fn() -> Vec<Row>] = &[
        operators::rows,
        convert::rows,
        time::rows,
        strings::rows,
        format_text::rows,
        lists::rows,
        sets::rows,
        optional::rows,
        regex::rows,
        url::rows,
        quantity::rows,
        net::rows,
        formats::rows,
        semver::rows,
        authz::rows,
        json_patch::rows,
    ];
    libraries.iter().flat_map(|rows| rows()).collect()
}
