//! An operator: a kind of its own (`Site`), and a controller that makes of each Site a Deployment
//! and a Service. Written with kube-rs as for any Kubernetes cluster; nothing in it is Wasmfleet's.
//!
//! ```text
//!   cargo run # in this folder; against the cluster of your kubeconfig
//!   kubectl apply -f examples/operator/site.yaml
//!   kubectl get sites
//! ```

mod site;

use futures::StreamExt;
use kube::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::try_default().await?;
    site::define(client.clone()).await?;
    println!("running; Sites are defined");
    let mut results = std::pin::pin!(site::controller(client));
    while let Some(result) = results.next().await {
        match result {
            Ok((site, _)) => println!("{}: reconciled", site.name),
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}
