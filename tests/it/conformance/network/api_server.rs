//! `network/apiserver.go`.

use anyhow::Result;

use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[case!("API Server should provide secure master service", service)];

async fn service(context: &Context) -> Result<()> {
    context.within("default", "v1/services").get("kubernetes").await.map(drop)
}
