//! What every cluster has from its first moment: the system's namespaces, the default roles and
//! their bindings, and the Service through which pods find the API.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::future::try_join_all;
use serde_json::{Value, json};

use super::User;
use super::rbac::{defaults, reconcile};
use super::service::{ApiServer, Call, read_error, timestamp};
use super::webhooks::Asking;
use super::write::WriteParams;
use crate::api::kinds::priority_class::SYSTEM_CLASSES;
use crate::api::kinds::service_cidr::DEFAULT_NAME;
use crate::api::kinds::{flow_schema, priority_level_configuration, storage, storage_class};
use crate::api::resource::Kind;
use crate::api::{ApiError, Object};

/// The namespaces that the system makes.
pub const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// The port of the Service `kubernetes`.
const HTTPS_PORT: u16 = 443;

/// A start must not wait for webhooks, which may be pods of this cluster.
fn own() -> WriteParams {
    WriteParams { asking: Asking::Skip, ..WriteParams::default() }
}

impl ApiServer {
    /// Creates what is missing; done at every start. `address` is where the API is reached, if it
    /// is reached over the network at all. Kinds that the registry does not have are left out.
    pub async fn bootstrap(&self, address: Option<SocketAddr>) -> Result<(), ApiError> {
        self.node_graph.fill(&self.store).map_err(read_error)?;
        self.rules.fill(&self.store).map_err(read_error)?;
        self.hooks.fill(&self.store).map_err(read_error)?;
        self.policies.fill(&self.store).map_err(read_error)?;
        self.settle_definitions().await?;
        for name in NAMESPACES {
            self.ensure("", "v1", "namespaces", "", json!({"metadata": {"name": name}})).await?;
        }
        for (name, value) in SYSTEM_CLASSES {
            let class = json!({"metadata": {"name": name}, "value": value});
            self.ensure("scheduling.k8s.io", "v1", "priorityclasses", "", class).await?;
        }
        self.ensure_storage_class().await?;
        // Side by side, so that they share flushes.
        let roles = defaults::cluster_roles().into_iter();
        let roles =
            roles.map(|role| self.ensure_rbac("clusterroles", role, reconcile::cluster_role));
        try_join_all(roles).await?;
        let bindings = defaults::cluster_role_bindings().into_iter().map(|binding| {
            let update = reconcile::cluster_role_binding;
            self.ensure_rbac("clusterrolebindings", binding, update)
        });
        try_join_all(bindings).await?;
        self.ensure_service_range().await?;
        self.ensure_flow_control().await?;
        let first = self.options.service_cidr.first().to_string();
        let port = address.map_or(HTTPS_PORT, |address| address.port());
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": first,
                "clusterIPs": [first],
                "ports": [{"name": "https", "protocol": "TCP", "port": HTTPS_PORT,
                    "targetPort": port}],
            },
        });
        self.ensure("", "v1", "services", "default", service).await?;
        match address {
            Some(address) => self.ensure_slice(address).await,
            None => Ok(()),
        }
    }

    /// The class of claims that name none: directories of the node of a claim's first Pod.
    async fn ensure_storage_class(&self) -> Result<(), ApiError> {
        let class = json!({
            "metadata": {"name": storage::LOCAL_CLASS,
                "annotations": {storage_class::DEFAULT_ANNOTATION: "true"}},
            "provisioner": storage::LOCAL_PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": storage::WAIT_FOR_FIRST_CONSUMER,
            "allowVolumeExpansion": true,
        });
        self.ensure("storage.k8s.io", "v1", "storageclasses", "", class).await
    }

    /// The levels and schemas that cannot be without.
    async fn ensure_flow_control(&self) -> Result<(), ApiError> {
        const GROUP: &str = "flowcontrol.apiserver.k8s.io";
        let levels =
            priority_level_configuration::mandatory().map(|o| ("prioritylevelconfigurations", o));
        let schemas = flow_schema::mandatory().map(|o| ("flowschemas", o));
        let all = levels.into_iter().chain(schemas);
        let all = all.map(|(resource, object)| self.ensure(GROUP, "v1", resource, "", object));
        try_join_all(all).await.map(|_| ())
    }

    /// The ServiceCIDR that tells the range of the server's settings.
    async fn ensure_service_range(&self) -> Result<(), ApiError> {
        let (group, version, resource) = ("networking.k8s.io", "v1", "servicecidrs");
        let range = self.options.service_cidr.to_string();
        let object = json!({"metadata": {"name": DEFAULT_NAME}, "spec": {"cidrs": [range]}});
        self.ensure(group, version, resource, "", object).await?;
        let Some(mut call) = self.system_call(group, version, resource, "") else {
            return Ok(());
        };
        (call.name, call.subresource) = (DEFAULT_NAME.into(), "status".into());
        let mut object = self.stored(&call)?.object;
        if object.at(&["status", "conditions"]).is_some() {
            return Ok(());
        }
        let condition = json!({"type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": timestamp(self.clock.now())});
        object.set("status", json!({"conditions": [condition]}));
        self.update(&call, object.into_value(), &own()).await.map(|_| ())
    }

    /// The EndpointSlice and the Endpoints of the Service `kubernetes`, kept at the present address.
    async fn ensure_slice(&self, address: SocketAddr) -> Result<(), ApiError> {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let ip = match address.ip() {
            // Listening on all addresses is no address; this machine is reached by loopback.
            ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            ip => ip,
        };
        let slice = json!({
            "metadata": {"name": "kubernetes",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "protocol": "TCP", "port": address.port()}],
        });
        let (group, version, resource) = ("discovery.k8s.io", "v1", "endpointslices");
        self.ensure(group, version, resource, "default", slice.clone()).await?;
        let Some(mut call) = self.system_call(group, version, resource, "default") else {
            return Ok(());
        };
        call.name = "kubernetes".into();
        self.update(&call, slice, &own()).await?;
        let endpoints = json!({
            "metadata": {"name": "kubernetes",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": ip.to_string()}],
                "ports": [{"name": "https", "protocol": "TCP", "port": address.port()}]}],
        });
        self.ensure("", "v1", "endpoints", "default", endpoints.clone()).await?;
        let Some(mut call) = self.system_call("", "v1", "endpoints", "default") else {
            return Ok(());
        };
        call.name = "kubernetes".into();
        self.update(&call, endpoints, &own()).await.map(|_| ())
    }

    /// Creates a default role or binding, or gives it back what it lacks.
    async fn ensure_rbac<T: Kind>(
        &self,
        resource: &str,
        expected: Value,
        lacking: fn(&T, &T) -> Option<T>,
    ) -> Result<(), ApiError> {
        const GROUP: &str = "rbac.authorization.k8s.io";
        self.ensure(GROUP, "v1", resource, "", expected.clone()).await?;
        let Some(mut call) = self.system_call(GROUP, "v1", resource, "") else { return Ok(()) };
        let expected: T = serde_json::from_value(expected).map_err(ApiError::internal)?;
        call.name = expected.metadata().name.clone().unwrap_or_default();
        let stored: T = self.stored(&call)?.object.typed()?;
        let Some(changed) = lacking(&stored, &expected) else { return Ok(()) };
        let changed = Object::from_typed(&changed).into_value();
        self.update(&call, changed, &own()).await.map(|_| ())
    }

    async fn ensure(
        &self,
        group: &str,
        version: &str,
        resource: &str,
        namespace: &str,
        object: Value,
    ) -> Result<(), ApiError> {
        let Some(call) = self.system_call(group, version, resource, namespace) else {
            return Ok(());
        };
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let named = Call { name: name.to_string(), ..call.clone() };
        if self.entry(&named).is_ok() {
            return Ok(());
        }
        match self.create(&call, object, &own()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn system_call(
        &self,
        group: &str,
        version: &str,
        resource: &str,
        namespace: &str,
    ) -> Option<Call> {
        let info = self.registry().by_url(group, version, resource)?.clone();
        Some(Call {
            user: Arc::new(User::system("apiserver")),
            info,
            namespace: namespace.into(),
            name: String::new(),
            subresource: String::new(),
            fence: None,
        })
    }
}
