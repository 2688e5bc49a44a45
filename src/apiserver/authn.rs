//! Who asks: what a client certificate or a bearer token stands for.
//!
//! Certificates were verified against the cluster's CA by the TLS handshake before they come here;
//! this file only reads names. Join tokens are no identity: only [`super::join`] takes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

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

/// Tools of registries know names and passwords only (RFC 7617): for them a password is a bearer
/// token, whatever the name. Anything else stays as it is.
pub fn take_password_as_bearer(headers: &mut HeaderMap) {
    let bearer = || {
        let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, encoded) = text.trim().split_once(' ')?;
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (_, password) = decoded.split_once(':')?;
        let is_basic = scheme.eq_ignore_ascii_case("basic") && !password.is_empty();
        HeaderValue::from_str(&format!("Bearer {password}")).ok().filter(|_| is_basic)
    };
    if let Some(mut value) = bearer() {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_registries_are_tokens() {
        let become_of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(text).expect("a value"));
            take_password_as_bearer(&mut headers);
            bearer_token(&headers).map(str::to_string)
        };
        let basic = |text: &str| format!("basic {}", STANDARD.encode(text));
        assert_eq!(become_of(&basic("any:a.b.c")).as_deref(), Some("a.b.c"));
        assert_eq!(become_of(&basic("any:a:b")).as_deref(), Some("a:b"));
        assert_eq!(become_of("Bearer a.b.c").as_deref(), Some("a.b.c"));
        for bad in [&*basic("any:"), &basic("any"), "Basic !", "Basic", &basic("any:a\nb")] {
            assert_eq!(become_of(bad), None, "{bad}");
        }
    }
}
