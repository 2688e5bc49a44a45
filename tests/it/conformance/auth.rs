//! The cases of sig-auth.

mod reviews;
mod service_accounts;

use super::Case;

pub const CASES: &[&[Case]] = &[reviews::CASES, service_accounts::CASES];
