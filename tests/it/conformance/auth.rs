//! The cases of sig-auth.

mod certificates;
mod reviews;
mod service_accounts;

use super::Case;

pub const CASES: &[&[Case]] = &[certificates::CASES, reviews::CASES, service_accounts::CASES];
