//! A command that asks the Kubernetes API about its own Pod, with the token that is mounted in
//! every container. The host speaks TLS for `wasi:http`, and knows the certificate of its cluster.
//!
//! It needs `POD_NAME` in its environment (from the field `metadata.name`) and a Role that lets its
//! service account `get` Pods. It prints the answer, and fails unless that is 200.

use std::env::var;
use std::fs::read_to_string;
use std::process::exit;

use wstd::http::{Body, Client, Request};

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[wstd::main]
async fn main() {
    match ask().await {
        Ok((200, text)) => println!("200 {text}"),
        Ok((code, text)) => {
            println!("{code} {text}");
            exit(1);
        }
        Err(error) => {
            println!("{error}");
            exit(1);
        }
    }
}

async fn ask() -> Result<(u16, String), Box<dyn std::error::Error>> {
    let (host, port) = (var("KUBERNETES_SERVICE_HOST")?, var("KUBERNETES_SERVICE_PORT")?);
    // Another name of the API, if one is given.
    let host = var("API_HOST").unwrap_or(host);
    let token = read_to_string(format!("{ACCOUNT}/token"))?;
    let namespace = read_to_string(format!("{ACCOUNT}/namespace"))?;
    let pod = var("POD_NAME")?;
    let uri = format!("https://{host}:{port}/api/v1/namespaces/{namespace}/pods/{pod}");
    let request = Request::get(uri)
        .header("authorization", format!("Bearer {}", token.trim()))
        .header("accept", "application/json")
        .body(Body::empty())?;
    let mut answer = Client::new().send(request).await?;
    let code = answer.status().as_u16();
    let text = answer.body_mut().str_contents().await?.to_string();
    Ok((code, text))
}
