//! The cases of sig-storage.

mod attachments;
mod classes;
mod content;
mod csi;
mod directories;
mod downward;
mod immutable;
mod volumes;

use super::Case;

pub const CASES: &[&[Case]] = &[
    attachments::CASES,
    classes::CASES,
    content::CASES,
    csi::CASES,
    directories::CASES,
    downward::CASES,
    immutable::CASES,
    volumes::CASES,
];
