//! `kubectl/logs.go`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::conformance::checks::is;
use crate::conformance::workloads::BUSYBOX;
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] =
    &[case!("Kubectl logs logs should be able to retrieve and filter logs", filters)];

/// Lines of the program that writes them over two seconds and a half, and then rests.
const LINES: usize = 25;

async fn filters(context: &Context) -> Result<()> {
    let mut args = vec!["sleep=100"; LINES];
    args.push("sleep=3600000");
    let pod = json!({"metadata": {"name": "logs-generator"}, "spec": {"restartPolicy": "Never",
        "containers": [{"name": "logs-generator", "image": BUSYBOX, "args": args}]}});
    context.own("v1/pods").create(&pod).await?;
    let logs = async |words: &str| {
        let told = context.kubectl(&format!("logs logs-generator {words}"), "").await?;
        ensure!(told.code == 0, "{}", told.told());
        Ok(told.stdout)
    };
    eventually("the first lines", async || {
        let told = context.kubectl("logs logs-generator logs-generator", "").await?;
        Ok((told.code == 0 && told.stdout.contains("arg[2]=")).then_some(()))
    })
    .await?;
    let line = logs("logs-generator --tail=1").await?;
    is(&line.lines().count().into(), 1)?;
    ensure!(line.ends_with('\n') && line.contains("sleep="), "{line:?}");
    is(&logs("logs-generator --limit-bytes=1").await?.len().into(), 1)?;
    let stamped = logs("logs-generator --tail=1 --timestamps").await?;
    let time = stamped.split(' ').next().unwrap_or_default();
    ensure!(time.parse::<jiff::Timestamp>().is_ok(), "no time: {stamped:?}");
    // Later only the last line is young.
    eventually("all lines", async || {
        let all = logs("logs-generator").await?;
        Ok((all.lines().count() > LINES).then_some(()))
    })
    .await?;
    let all = logs("logs-generator --since=24h").await?.lines().count();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let young = logs("logs-generator --since=1s").await?.lines().count();
    ensure!(young < all, "{young} of {all} lines are younger than a second");
    Ok(())
}
