//! Where objects of a kind are found: group, version, plural resource, scope, and the URLs of them.

use std::borrow::Cow;
use std::fmt;

use super::Kind;

/// Group, version and plural resource, and whether objects live in namespaces: all that is needed
/// to build a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    /// The plural name, as in the URL.
    pub resource: Cow<'static, str>,
    pub namespaced: bool,
}

impl Gvr {
    pub const fn new(
        group: &'static str,
        version: &'static str,
        resource: &'static str,
        namespaced: bool,
    ) -> Gvr {
        Gvr {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            resource: Cow::Borrowed(resource),
            namespaced,
        }
    }

    /// The resource of a type.
    pub const fn of<T: Kind>() -> Gvr {
        Gvr::new(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT, <T::Scope as Scoped>::NAMESPACED)
    }

    /// `deployments.apps`, or `pods`: as error messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `/api/v1/namespaces/n/pods/x/status` and its like, with namespace and name escaped: they may
    /// be what a person typed.
    pub fn path(
        &self,
        namespace: Option<&str>,
        name: Option<&str>,
        subresource: Option<&str>,
    ) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str("/namespaces/");
            push_segment(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.resource);
        if let Some(name) = name {
            path.push('/');
            push_segment(&mut path, name);
        }
        if let Some(subresource) = subresource {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

/// Appends a path segment; what is not a `pchar` of RFC 3986 is percent-encoded.
fn push_segment(path: &mut String, segment: &str) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

impl fmt::Display for Gvr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.qualified())
    }
}

/// Tells a type's scope to generic code.
pub trait Scoped {
    const NAMESPACED: bool;
}

impl Scoped for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

impl Scoped for k8s_openapi::NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_hold_names_as_one_segment() {
        let pods = Gvr::new("", "v1", "pods", true);
        assert_eq!(
            pods.path(Some("n"), Some("a/../b?x=1#%ä"), Some("log")),
            "/api/v1/namespaces/n/pods/a%2F..%2Fb%3Fx=1%23%25%C3%A4/log"
        );
        let roles = Gvr::new("rbac", "v1", "roles", false);
        assert_eq!(
            roles.path(Some("n"), Some("system:node"), None),
            "/apis/rbac/v1/roles/system:node"
        );
        assert_eq!(roles.path(None, None, None), "/apis/rbac/v1/roles");
    }
}
