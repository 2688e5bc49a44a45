//! Acting as another: the headers `Impersonate-User`, `-Group`, `-Uid` and `-Extra-*`
//! (k8s.io/apiserver/pkg/endpoints/filters/impersonation). Who sends them must have the verb
//! `impersonate` for each; everything after is decided for the other user alone.

use http::HeaderMap;

use super::User;
use super::authz::Attributes;
use super::request::percent_decode;
use super::service::ApiServer;
use super::user::{
    ANONYMOUS, AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, service_account_groups,
};
use crate::api::{ApiError, Gvr};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";

static USERS: Gvr = Gvr::new("", "v1", "users", false);
static GROUPS: Gvr = Gvr::new("", "v1", "groups", false);
static SERVICE_ACCOUNTS: Gvr = Gvr::new("", "v1", "serviceaccounts", true);
static UIDS: Gvr = Gvr::new("authentication.k8s.io", "v1", "uids", false);
static USER_EXTRAS: Gvr = Gvr::new("authentication.k8s.io", "v1", "userextras", false);

/// The user that a request is for: who sends it, or whom its headers name.
///
/// # Errors
/// 403 for who may not act as that user; 400 for headers that name none; 401 for who is nobody.
pub fn effective(
    server: &ApiServer,
    user: Option<User>,
    headers: &HeaderMap,
) -> Result<Option<User>, ApiError> {
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    let user = user.ok_or_else(ApiError::unauthorized)?;
    let check = |resource: &Gvr, namespace: &str, name: &str, subresource: &str| {
        let attributes = Attributes {
            verb: "impersonate",
            resource: Some(resource),
            subresource,
            namespace,
            name,
            path: "",
        };
        server.authorize_user(&user, &attributes)
    };
    match account(&wanted.name) {
        Some((namespace, name)) => check(&SERVICE_ACCOUNTS, namespace, name, "")?,
        None => check(&USERS, "", &wanted.name, "")?,
    }
    for group in &wanted.groups {
        check(&GROUPS, "", group, "")?;
    }
    if !wanted.uid.is_empty() {
        check(&UIDS, "", &wanted.uid, "")?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check(&USER_EXTRAS, "", value, key)?;
        }
    }
    Ok(Some(with_implied_groups(wanted)))
}

/// The user as the headers have it; `None` without such headers.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let mut user = User::default();
    let mut named = false;
    for (header, value) in headers {
        let header = header.as_str();
        let extra = header.strip_prefix(EXTRA_PREFIX);
        if extra.is_none() && !matches!(header, USER | GROUP | UID) {
            continue;
        }
        let bad = || ApiError::bad_request(format!("the header {header} is not valid"));
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| bad())?.to_string();
        named = true;
        match (header, extra) {
            (USER, _) if user.name.is_empty() => user.name = value,
            (GROUP, _) => user.groups.push(value),
            (UID, _) if user.uid.is_empty() => user.uid = value,
            (_, Some(key)) => {
                let key = percent_decode(key, false).ok_or_else(bad)?.to_lowercase();
                user.extra.entry(key).or_default().push(value);
            }
            _ => return Err(bad()),
        }
    }
    if named && user.name.is_empty() {
        let message = "groups, uid and extra are impersonated only together with a user";
        return Err(ApiError::bad_request(message));
    }
    Ok(named.then_some(user))
}

/// Namespace and name of a service account's user name.
fn account(user_name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user_name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Service accounts are in the groups of all and of their namespace, if no others are named; and
/// all but the anonymous are authenticated.
fn with_implied_groups(mut user: User) -> User {
    if let Some((namespace, _)) = account(&user.name).filter(|_| user.groups.is_empty()) {
        user.groups = service_account_groups(namespace).into();
    }
    let implied = match user.name.as_str() {
        ANONYMOUS => UNAUTHENTICATED,
        _ => AUTHENTICATED,
    };
    if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(implied.to_string());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(lines: &[(&'static str, &str)]) -> Result<Option<User>, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        wanted(&headers).map(|user| user.map(with_implied_groups)).map_err(|error| error.code)
    }

    #[test]
    fn headers_name_a_user() {
        assert_eq!(user(&[("accept", "*/*")]), Ok(None));
        let ann = user(&[(USER, "ann"), (GROUP, "a"), (GROUP, "b"), (UID, "7")]).unwrap().unwrap();
        assert_eq!((ann.name.as_str(), ann.uid.as_str()), ("ann", "7"));
        assert_eq!(ann.groups, ["a", "b", "system:authenticated"]);
        let extra = user(&[(USER, "ann"), ("impersonate-extra-a%2Fb", "x")]).unwrap().unwrap();
        assert_eq!(extra.extra["a/b"], ["x"]);
        let robot = user(&[(USER, "system:serviceaccount:n:robot")]).unwrap().unwrap();
        let groups = ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"];
        assert_eq!(robot.groups, groups);
        let nobody = user(&[(USER, "system:anonymous")]).unwrap().unwrap();
        assert_eq!(nobody.groups, ["system:unauthenticated"]);
        assert_eq!(user(&[(GROUP, "system:masters")]), Err(400));
        assert_eq!(user(&[(USER, ""), (GROUP, "system:masters")]), Err(400));
        assert_eq!(user(&[(USER, "ann"), (USER, "bob")]), Err(400));
    }
}
