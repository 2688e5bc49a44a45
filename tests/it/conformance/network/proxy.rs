//! `network/proxy.go`: requests to pods and Services through the API server. Upstream's server
//! tells the method in JSON; our guest tells method and path in a line.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::conformance::checks::is;
use crate::conformance::workloads::{HTTPD, run};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "Proxy version v1 A set of valid responses are returned for both pod and service Proxy",
        roots
    ),
    case!(
        "Proxy version v1 A set of valid responses are returned for both pod and service \
         ProxyWithPath",
        paths
    ),
];

/// The methods, and how the guest tells them.
const METHODS: &[(&str, &str)] = &[
    ("DELETE", "Method::Delete"),
    ("OPTIONS", "Method::Options"),
    ("PATCH", "Method::Patch"),
    ("POST", "Method::Post"),
    ("PUT", "Method::Put"),
];

/// A pod that serves, and a Service before it; the paths of their proxies.
async fn servers(context: &Context) -> Result<[String; 2]> {
    let pod = json!({"metadata": {"name": "agnhost", "labels": {"test": "response"}},
        "spec": {"containers": [{"name": "agnhost", "image": HTTPD,
            "ports": [{"containerPort": 8080}]}]}});
    run(&context.own("v1/pods"), &pod).await?;
    let service = json!({"metadata": {"name": "e2e-proxy-test-service"},
        "spec": {"selector": {"test": "response"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    context.own("v1/services").create(&service).await?;
    let root = format!("/api/v1/namespaces/{}", context.namespace);
    let service = format!("{root}/services/e2e-proxy-test-service/proxy");
    eventually("an endpoint of the Service", async || {
        let answer = context.client.send("GET", &format!("{service}/"), &[], Vec::new()).await?;
        Ok((answer.code == 200).then_some(()))
    })
    .await?;
    Ok([format!("{root}/pods/agnhost/proxy"), service])
}

async fn roots(context: &Context) -> Result<()> {
    for proxy in servers(context).await? {
        for (method, shown) in METHODS {
            let path = format!("{proxy}?method={method}");
            let answer = context.client.send(method, &path, &[], Vec::new()).await?.ok()?;
            is(&answer.code.into(), 200)?;
            ensure!(
                answer.text().contains(&format!("{shown} /?method={method}")),
                "{}",
                answer.text()
            );
        }
        // What a page names relatively is found only below a slash.
        for method in ["GET", "HEAD"] {
            let path = format!("{proxy}?method={method}");
            let answer = context.client.send(method, &path, &[], Vec::new()).await?;
            is(&answer.code.into(), 301)?;
            is(&answer.header("location").into(), format!("{proxy}/?method={method}"))?;
        }
    }
    Ok(())
}

async fn paths(context: &Context) -> Result<()> {
    for proxy in servers(context).await? {
        for (method, shown) in METHODS.iter().chain(&[("GET", "Method::Get")]) {
            let path = format!("{proxy}/some/path/with/{method}");
            let answer = context.client.send(method, &path, &[], Vec::new()).await?.ok()?;
            is(&answer.code.into(), 200)?;
            let wanted = format!("{shown} /some/path/with/{method}");
            ensure!(answer.text().contains(&wanted), "{}", answer.text());
        }
        let path = format!("{proxy}/some/path/with/HEAD");
        let answer = context.client.send("HEAD", &path, &[], Vec::new()).await?.ok()?;
        ensure!(answer.body.is_empty(), "{}", answer.text());
    }
    Ok(())
}
