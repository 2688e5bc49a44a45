//! What expressions ask with `authorizer`: whether somebody may do something, decided as for a request
//! of theirs (k8s.io/apiserver/pkg/cel/library/authz.go).

use super::User;
use super::authz::Attributes;
use super::service::{ApiServer, Call};
use crate::api::cel::{Authorizer, Check, Decision};
use crate::api::resource::Gvr;

/// Asks for the user of a request, or for a service account that the expression names.
pub struct Asker<'a> {
    pub server: &'a ApiServer,
    pub user: &'a User,
}

impl Authorizer for Asker<'_> {
    fn decide(&self, check: &Check) -> Decision {
        let account = check.service_account.as_ref();
        let account = account.map(|(namespace, name)| User::service_account(namespace, name));
        let user = account.as_ref().unwrap_or(self.user);
        let gvr = Gvr {
            group: check.group.clone().into(),
            version: "*".into(),
            resource: check.resource.clone().into(),
            namespaced: !check.namespace.is_empty(),
        };
        let attributes = match check.path.as_str() {
            "" => Attributes {
                verb: &check.verb,
                resource: Some(&gvr),
                subresource: &check.subresource,
                namespace: &check.namespace,
                name: &check.name,
                path: "",
            },
            path => Attributes::of_path(&check.verb, path),
        };
        let allowed = self.server.authorize_user(user, &attributes).is_ok();
        let reason = self.server.rules.reason(user, &attributes).filter(|_| allowed);
        Decision { allowed, reason: reason.unwrap_or_default() }
    }
}

impl Call {
    /// What `authorizer.requestResource` begins with.
    pub(super) fn check(&self) -> Check {
        let gvr = &self.info.gvr;
        Check {
            group: gvr.group.to_string(),
            resource: gvr.resource.to_string(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            ..Check::default()
        }
    }
}
