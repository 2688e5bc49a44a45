//! Which request is which: paths and methods of the OCI distribution-spec ("Endpoints").

use http::{Method, Request, Response, StatusCode};

use super::Artifacts;
use super::errors::{OciError, OciResult};
use crate::api::error::Reason;
use crate::apiserver::body::RequestBody;
use crate::apiserver::rbac::Rules;
use crate::apiserver::{Body, User, authz, reply};
use crate::images::digest_hex;
use crate::images::reference::{is_repository, is_tag};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Ping,
    Catalog,
    Tags(&'a str),
    Manifest {
        repository: &'a str,
        version: &'a str,
    },
    Blob {
        repository: &'a str,
        digest: &'a str,
    },
    /// `digest` may be anything.
    Referrers {
        repository: &'a str,
        digest: &'a str,
    },
    NewUpload(&'a str),
    Upload {
        repository: &'a str,
        id: &'a str,
    },
}

impl Artifacts {
    pub(super) async fn route<B: RequestBody>(
        &self,
        rules: &Rules,
        user: &User,
        request: Request<B>,
    ) -> OciResult<Response<Body>> {
        authorize(rules, user, &request)?;
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        let unknown =
            || OciError::missing("UNSUPPORTED", format!("{path} is no path of a registry"));
        let route = parse(path).ok_or_else(unknown)?;
        match (&head.method, route) {
            (&Method::GET | &Method::HEAD, Route::Ping) => {
                Ok(reply::json(StatusCode::OK, &serde_json::json!({})))
            }
            (&Method::GET, Route::Catalog) => self.catalog(query),
            (&Method::GET, Route::Tags(repository)) => self.tags(repository, query),
            (&Method::GET | &Method::HEAD, Route::Manifest { repository, version }) => {
                self.get_manifest(repository, version)
            }
            (&Method::PUT, Route::Manifest { repository, version }) => {
                self.put_manifest(repository, version, body).await
            }
            (&Method::DELETE, Route::Manifest { repository, version }) => {
                self.delete_manifest(repository, version).await
            }
            (&Method::GET, Route::Referrers { repository, digest }) => {
                self.referrers(repository, digest, query)
            }
            (&Method::GET, Route::Blob { digest, .. }) => self.get_blob(digest, true).await,
            (&Method::HEAD, Route::Blob { digest, .. }) => self.get_blob(digest, false).await,
            (&Method::POST, Route::NewUpload(repository)) => {
                self.start_upload(repository, query, body).await
            }
            (&Method::GET, Route::Upload { repository, id }) => self.upload_state(repository, id),
            (&Method::PATCH, Route::Upload { repository, id }) => {
                self.continue_upload(repository, id, &head.headers, body).await
            }
            (&Method::PUT, Route::Upload { repository, id }) => {
                self.finish_upload(repository, id, query, body).await
            }
            (&Method::DELETE, Route::Upload { repository, id }) => {
                self.cancel_upload(repository, id)
            }
            (method, _) => Err(OciError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                format!("{method} is not possible here"),
            )),
        }
    }
}

/// The ping is open to everyone who is authenticated: clients begin with it.
fn authorize<B>(rules: &Rules, user: &User, request: &Request<B>) -> OciResult<()> {
    let verb = request.method().as_str().to_ascii_lowercase();
    let path = request.uri().path();
    if matches!(path, "/v2" | "/v2/") && user.is_in(crate::apiserver::user::AUTHENTICATED) {
        return Ok(());
    }
    let attributes = authz::Attributes::of_path(&verb, path);
    authz::authorize(rules, user, &attributes).map_err(|error| {
        debug_assert_eq!(error.reason, Reason::Forbidden);
        OciError::new(StatusCode::FORBIDDEN, "DENIED", error.message)
    })
}

/// Reads a path from its end, because a repository's name has any number of parts.
fn parse(path: &str) -> Option<Route<'_>> {
    let path = path.strip_prefix("/v2")?;
    match path {
        "" | "/" => return Some(Route::Ping),
        "/_catalog" => return Some(Route::Catalog),
        _ => {}
    }
    let path = path.strip_prefix('/')?;
    let start =
        path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads"));
    if let Some(repository) = start.filter(|r| is_repository(r)) {
        return Some(Route::NewUpload(repository));
    }
    let (rest, last) = path.rsplit_once('/')?;
    let named = |suffix: &str| rest.strip_suffix(suffix).filter(|r| is_repository(r));
    if let Some(repository) = named("/tags").filter(|_| last == "list") {
        return Some(Route::Tags(repository));
    }
    if let Some(repository) = named("/manifests") {
        let valid = is_tag(last) || digest_hex(last).is_some();
        return valid.then_some(Route::Manifest { repository, version: last });
    }
    if let Some(repository) = named("/referrers") {
        return Some(Route::Referrers { repository, digest: last });
    }
    if let Some(repository) = named("/blobs/uploads") {
        return Some(Route::Upload { repository, id: last });
    }
    if let Some(repository) = named("/blobs") {
        return digest_hex(last).map(|_| Route::Blob { repository, digest: last });
    }
    None
}

/// The value of a query's field, with its percent-encoding undone (digests have a colon).
pub(super) fn field(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then_some(value)
    })?;
    Some(value.replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(parse("/v2/"), Some(Route::Ping));
        assert_eq!(parse("/v2/a/b/tags/list"), Some(Route::Tags("a/b")));
        assert_eq!(
            parse("/v2/a/manifests/blobs/manifests/v1"),
            Some(Route::Manifest { repository: "a/manifests/blobs", version: "v1" })
        );
        let blob = format!("/v2/a/blobs/{digest}");
        assert_eq!(parse(&blob), Some(Route::Blob { repository: "a", digest: &digest }));
        assert_eq!(parse("/v2/a/blobs/uploads/"), Some(Route::NewUpload("a")));
        let upload = Route::Upload { repository: "a", id: "77" };
        assert_eq!(parse("/v2/a/blobs/uploads/77"), Some(upload));
        let referrers = Route::Referrers { repository: "a/b", digest: "sha256:x" };
        assert_eq!(parse("/v2/a/b/referrers/sha256:x"), Some(referrers));
        for bad in ["/v2/../x/manifests/v1", "/v2/a/blobs/sha256:zz", "/v2/A/tags/list", "/v2/a"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
