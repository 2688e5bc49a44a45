//! Who asks: what a client certificate or a bearer token stands for.
//!
//! Certificates were verified against the cluster's CA by the TLS handshake before they come here;
//! this file only reads names. Join tokens are no identity: only [`super::join`] takes them.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::User;
use super::user::AUTHENTICATED;

/// Groups that are read from one certificate.
const MAX_GROUPS: usize = 64;

/// The user of a verified client certificate: common name = user, organizations = groups
/// (k8s.io/apiserver/pkg/authentication/request/x509). `None` if it has no common name.
pub fn from_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let mut groups: Vec<String> = subject
        .iter_organization()
        .take(MAX_GROUPS)
        .filter_map(|o| o.as_str().ok())
        .filter(|group| !group.is_empty())
        .map(str::to_string)
        .collect();
    if !groups.iter().any(|g| g == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_string());
    }
    Some(User { name: name.to_string(), groups, ..User::default() })
}

/// The token of `Authorization: Bearer …` (the scheme in any case, RFC 9110).
pub fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
