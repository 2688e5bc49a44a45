//! The cases of sig-storage.

mod attachments;
mod classes;
mod csi;
mod immutable;
mod volumes;

use super::Case;

pub const CASES: &[&[Case]] =
    &[attachments::CASES, classes::CASES, csi::CASES, immutable::CASES, volumes::CASES];
