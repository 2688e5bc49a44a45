//! `wasmctl controllers`: the server's page about its controllers.

use anyhow::Context;

use super::args::{ControllersArgs, ControllersOutput};
use super::printer;
use super::session::Session;
use crate::client::controller_status::{ControllersPage, PATH};

pub async fn run(session: &Session, args: &ControllersArgs) -> anyhow::Result<()> {
    let value = session.get_json(PATH).await?;
    if args.output == Some(ControllersOutput::Json) {
        return Ok(printer::line(&serde_json::to_string_pretty(&value)?)?);
    }
    let page: ControllersPage = serde_json::from_value(value).context("the server's answer")?;
    for line in page.lease_lines() {
        printer::line(&printer::clean(&line))?;
    }
    Ok(printer::columns(&page.rows())?)
}
