//! What rows of custom resources have that those of built-in kinds do not.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::WebhookConversion;
use serde_json::Value;

/// What a CustomResourceDefinition says of its kind that built-in kinds have no use for.
pub struct CustomParts {
    /// The version's schema, as OpenAPI with Kubernetes' extensions.
    pub schema: Value,
    pub scale: Option<ScalePaths>,
    /// The webhook that converts between versions; versions differ in `apiVersion` only where there
    /// is none. The same for all rows of a definition.
    pub conversion: Option<Arc<WebhookConversion>>,
    /// Told with every answer, for versions that are on their way out.
    pub deprecation: Option<String>,
    /// Being deleted: nothing is created any more.
    pub terminating: AtomicBool,
}

/// Where a custom resource keeps what its `/scale` shows, as field names.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    /// A selector as text.
    pub selector: Option<Vec<String>>,
}
