//! What requests cost: the built server program as a process of its own on a fresh directory,
//! driven over HTTPS, and beside it in the same run etcd (gRPC in plain text, for writes also over TLS
//! as Kubernetes speaks to it; the same bytes, the same disk).
//!
//! `cargo bench --bench api`; `-- NAME…` runs some of the figures, `-- writes 256` those of writes
//! with so many clients only. Prints a table. Times a second
//! depend on what else the machine does: read the ratios, and CPU time, which is the server
//! process's own (user and system); that of the load generator is shown apart.

mod certificates;
mod connection;
mod etcd;
#[path = "../common/launch.rs"]
mod launch;
mod load;
mod objects;
#[path = "../common/program.rs"]
mod program;
mod reads;
mod report;
mod server;
#[path = "../common/stats.rs"]
mod stats;
mod watches;
mod writes;

use report::Report;

/// A figure's name.
const FIGURES: &[&str] = &["writes", "get", "objects", "watch"];

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let (counts, wanted): (Vec<String>, Vec<String>) =
        wanted.into_iter().partition(|one| one.parse::<usize>().is_ok());
    let counts: Vec<usize> = counts.iter().flat_map(|count| count.parse()).collect();
    for name in &wanted {
        let known = FIGURES.contains(&name.as_str());
        anyhow::ensure!(known, "no figure {name}; there are {FIGURES:?}");
    }
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    // kube-client, which reads the kubeconfig, asks for the process's provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(&wants, &counts))?;
    report.print();
    Ok(())
}

async fn measure(wants: &dyn Fn(&str) -> bool, client_counts: &[usize]) -> anyhow::Result<Report> {
    let mut report = Report::default();
    if !etcd::is_installed() {
        report.note("etcd is not installed, so its column is empty: scripts/setup-benches.sh");
    }
    report.note(format!("the disk makes {:.0} fdatasync a second", stats::fdatasync_rate()?));
    if wants("writes") {
        writes::measure(&mut report, client_counts).await?;
    }
    if wants("get") {
        reads::measure(&mut report).await?;
    }
    if wants("objects") {
        objects::measure(&mut report).await?;
    }
    if wants("watch") {
        watches::measure(&mut report).await?;
    }
    Ok(report)
}
