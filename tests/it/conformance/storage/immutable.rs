//! The part of `common/storage/configmap_volume.go` and `common/storage/secrets_volume.go` that
//! mounts nothing.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{is, is_refused};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!("ConfigMap should be immutable if `immutable` field is set", config_map),
    case!("Secrets should be immutable if `immutable` field is set", secret),
];

async fn config_map(context: &Context) -> Result<()> {
    immutable(context, "v1/configmaps", "value-1").await
}

async fn secret(context: &Context) -> Result<()> {
    immutable(context, "v1/secrets", "dmFsdWUtMQo=").await
}

async fn immutable(context: &Context, resource: &str, value: &str) -> Result<()> {
    let objects = context.own(resource);
    let data = json!({"data-1": value, "data-2": value, "data-3": value});
    let object = json!({"metadata": {"name": "immutable"}, "data": data});
    let mut current = objects.create(&object).await?;
    current["data"]["data-4"] = value.into();
    let mut current = objects.replace(&current).await?;
    current["immutable"] = true.into();
    let mut current = objects.replace(&current).await?;
    current["data"]["data-5"] = value.into();
    is_invalid(objects.replace(&current).await)?;
    let mut current = objects.get("immutable").await?;
    is(&current["immutable"], true)?;
    current["immutable"] = false.into();
    is_invalid(objects.replace(&current).await)?;
    let mut current = objects.get("immutable").await?;
    current["metadata"]["labels"] = json!({"label1": "value1"});
    objects.replace(&current).await?;
    objects.delete("immutable").await.map(drop)
}

fn is_invalid(result: Result<Value>) -> Result<()> {
    is(&is_refused(result, &[422])?.reason.into(), "Invalid")
}
