//! The built program as a child process on a directory of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::program;

/// From exec to `ready`.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Starts the program with these arguments, waits for its line `ready`, and reads the administrator's
/// kubeconfig.
pub async fn launch(dir: &Path, args: &[&str]) -> anyhow::Result<(Child, kube::Config)> {
    let kubeconfig = dir.join("kubeconfig");
    let mut command = Command::new(program::path());
    command.args(args).args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.join("data"));
    command.arg("--kubeconfig").arg(&kubeconfig);
    let child = until_ready(command).await?;
    let file = kube::config::Kubeconfig::read_from(&kubeconfig)?;
    Ok((child, kube::Config::from_custom_kubeconfig(file, &Default::default()).await?))
}

/// Starts a program, and waits for its line `ready`.
pub async fn until_ready(mut command: Command) -> anyhow::Result<Child> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("stdout")?;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut ready = Some(ready);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line == "ready"
                && let Some(ready) = ready.take()
            {
                // The receiver is gone when the wait has timed out.
                let _ = ready.send(());
            }
        }
    });
    let started = tokio::time::timeout(START_LIMIT, is_ready).await;
    if !matches!(started, Ok(Ok(()))) {
        let _ = child.kill();
        let _ = child.wait();
        anyhow::bail!("the program did not get ready in {START_LIMIT:?}");
    }
    Ok(child)
}
