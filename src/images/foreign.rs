//! Other registries than the cluster's own, over HTTPS (OCI distribution-spec).
//!
//! Nobody there is trusted: of each answer, also of one that tells an error, no more is read than it
//! may have. A client is made for each pull: its tokens are those of one pod's credentials and must
//! not serve another pod.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use super::credentials::{self, Auth};
use super::pull::{PullError, network};
use super::registries::{Candidate, Settings};
use super::{MAX_MANIFEST_BYTES, Reference, digest_hex, digest_of, layout};
use crate::api::ApiError;
use crate::base::causes;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest silence in the middle of an answer.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// For a manifest, with the authentication before it.
const MANIFEST_LIMIT: Duration = Duration::from_secs(60);
/// For a program.
const BLOB_LIMIT: Duration = Duration::from_secs(600);
/// The longest answer with a token (64 KiB): more than any header may have.
const MAX_TOKEN_BYTES: u64 = 64 << 10;
/// What is read of an answer that tells an error (16 KiB); the rest is left unread.
const MAX_REFUSAL_BYTES: u64 = 16 << 10;
/// The digest of a manifest (distribution-spec, "Pulling manifests").
const CONTENT_DIGEST: &str = "docker-content-digest";

/// One registry as one pod sees it.
pub struct Registry {
    /// Or why its settings make none.
    client: Result<Client, String>,
    plain: bool,
    auth: Auth,
}

impl Registry {
    /// The registry of a candidate, with what [`auth`] found.
    pub fn new(candidate: &Candidate, settings: Settings, auth: Auth) -> Registry {
        Registry { client: client(settings), plain: candidate.plain, auth }
    }

    /// The manifest's bytes.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn manifest(&self, image: &Reference) -> Result<Bytes, PullError> {
        let work = async {
            let path = format!("manifests/{}", image.version());
            let types = layout::MANIFEST_TYPES.join(", ");
            let response = self.get(image, &path, &types).await?;
            let told = response.headers().get(CONTENT_DIGEST).cloned();
            let bytes = body(image, response, MAX_MANIFEST_BYTES).await?;
            let told = told.as_ref().and_then(|told| told.to_str().ok());
            let digest = digest_of(&bytes);
            match told.filter(|told| digest_hex(told).is_some() && **told != *digest) {
                Some(told) => Err(network(image, format!("its registry sent {digest} for {told}"))),
                None => Ok(bytes),
            }
        };
        in_time(image, MANIFEST_LIMIT, work).await
    }

    /// A blob's bytes, at most `max_bytes`; the caller checks the digest.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn blob(
        &self,
        image: &Reference,
        digest: &str,
        max_bytes: u64,
    ) -> Result<Bytes, PullError> {
        let work = async {
            let response = self.get(image, &format!("blobs/{digest}"), "*/*").await?;
            body(image, response, max_bytes).await
        };
        in_time(image, BLOB_LIMIT, work).await
    }

    /// What lies at a path of the image's repository: an answer whose body is still to be read.
    async fn get(
        &self,
        image: &Reference,
        path: &str,
        accept: &str,
    ) -> Result<Response, PullError> {
        let client = self.client.as_ref().map_err(|why| network(image, why))?;
        let (host, repository) = address(image);
        let scheme = if self.plain { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/");
        let auth = self.sign_in(client, image, &base, &repository).await?;
        let request = client.get(format!("{base}{repository}/{path}")).header(ACCEPT, accept);
        let response = send(image, shown(request, &auth)).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            _ => Err(refusal(image, response).await),
        }
    }

    /// What requests are to carry, by what the registry says to one that carries nothing: a token of
    /// the place that it names, or what the pod has
    /// (distribution.github.io/distribution/spec/auth/token).
    async fn sign_in(
        &self,
        client: &Client,
        image: &Reference,
        base: &str,
        repository: &str,
    ) -> Result<Auth, PullError> {
        if let Auth::Bearer(_) = self.auth {
            return Ok(self.auth.clone());
        }
        let response = send(image, client.get(base)).await?;
        if !response.headers().contains_key(WWW_AUTHENTICATE) {
            return Ok(Auth::Anonymous);
        }
        let Some(Challenge { realm, service }) = Challenge::of(response.headers()) else {
            return Ok(self.auth.clone());
        };
        let scope = format!("repository:{repository}:pull");
        let query: Vec<(&str, String)> =
            [("scope", scope)].into_iter().chain(service.map(|name| ("service", name))).collect();
        let request = shown(client.get(realm).query(&query), &self.auth);
        let response = send(image, request).await?;
        if response.status() != StatusCode::OK {
            return Err(match refusal(image, response).await {
                // It knows nothing of images.
                PullError::NotFound(name) => {
                    PullError::Unauthorized { name, why: "there is nobody to give a token".into() }
                }
                error => error,
            });
        }
        let answer = body(image, response, MAX_TOKEN_BYTES).await?;
        match token(&answer) {
            Some(token) => Ok(Auth::Bearer(token)),
            None => Err(network(image, "its registry's answer has no token")),
        }
    }
}

/// The credentials for an image: a pod's own come before those of the settings.
pub fn auth(image: &Reference, settings: &Settings, docker_configs: &[Bytes]) -> Auth {
    credentials::find(docker_configs, image)
        .or_else(|| settings.credentials.as_ref()?.auth())
        .unwrap_or(Auth::Anonymous)
}

fn client(settings: Settings) -> Result<Client, String> {
    // Fails when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = settings.ca.map(|pem| Certificate::from_pem_bundle(&pem)).transpose();
    let ca = ca.map_err(|error| format!("its CA cannot be read: {}", causes::told(&error)))?;
    let builder = Client::builder()
        .user_agent(concat!("wasmfleet/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_LIMIT)
        .tls_danger_accept_invalid_certs(settings.insecure)
        .tls_certs_merge(ca.into_iter().flatten());
    builder.build().map_err(|error| causes::told(&error))
}

/// Host and repository by the rules of Docker's own registry, which has another host than its name
/// says, and a folder for names without one.
fn address(image: &Reference) -> (&str, String) {
    let host = image.registry.as_deref().unwrap_or_default();
    match host {
        "docker.io" | "index.docker.io" if !image.repository.contains('/') => {
            ("index.docker.io", format!("library/{}", image.repository))
        }
        "docker.io" => ("index.docker.io", image.repository.clone()),
        _ => (host, image.repository.clone()),
    }
}

/// Who gives tokens (RFC 6750, 3), as a registry says.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// A URL.
    realm: String,
    service: Option<String>,
}

impl Challenge {
    fn of(headers: &HeaderMap) -> Option<Challenge> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|text| text.to_str().ok());
        texts.filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().find_map(
            |found| {
                let parameter = |name: &str| {
                    let mut all = found.params.iter();
                    let (_, value) = all.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                    Some(value.to_unescaped())
                };
                let is_bearer = found.scheme.eq_ignore_ascii_case("bearer");
                let realm = parameter("realm").filter(|_| is_bearer)?;
                Some(Challenge { realm, service: parameter("service") })
            },
        )
    }
}

/// The token of an answer; some call it by its name in OAuth 2.
fn token(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let Answer { token, access_token } = serde_json::from_slice(answer).ok()?;
    let given = |token: &String| !token.is_empty();
    token.filter(given).or(access_token.filter(given))
}

fn shown(request: RequestBuilder, auth: &Auth) -> RequestBuilder {
    match auth {
        Auth::Anonymous => request,
        Auth::Basic(user, password) => request.basic_auth(user, Some(password)),
        Auth::Bearer(token) => request.bearer_auth(token),
    }
}

async fn send(image: &Reference, request: RequestBuilder) -> Result<Response, PullError> {
    request.send().await.map_err(|error| network(image, causes::told(&error)))
}

/// The whole body, if it is no longer than it may be.
async fn body(
    image: &Reference,
    mut response: Response,
    max_bytes: u64,
) -> Result<Bytes, PullError> {
    let too_long = || network(image, format!("its registry sends more than {max_bytes} bytes"));
    if response.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_long());
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = next(image, &mut response).await? {
        if (bytes.len() + chunk.len()) as u64 > max_bytes {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

async fn next(image: &Reference, response: &mut Response) -> Result<Option<Bytes>, PullError> {
    response.chunk().await.map_err(|error| network(image, causes::told(&error)))
}

/// What an answer says that is no success.
async fn refusal(image: &Reference, mut response: Response) -> PullError {
    let status = response.status();
    let mut bytes = BytesMut::new();
    // What is cut off says something, too.
    while let Ok(Some(chunk)) = next(image, &mut response).await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 >= MAX_REFUSAL_BYTES {
            break;
        }
    }
    let message = ApiError::from_response(status.as_u16(), &bytes).message;
    let why = match message.is_empty() {
        true => status.to_string(),
        false => format!("{status}: {message}"),
    };
    let name = image.to_string();
    match status.as_u16() {
        404 => PullError::NotFound(name),
        401 | 403 => PullError::Unauthorized { name, why },
        _ => network(image, format!("its registry answered {why}")),
    }
}

async fn in_time<T>(
    image: &Reference,
    limit: Duration,
    work: impl Future<Output = Result<T, PullError>>,
) -> Result<T, PullError> {
    let slow = |_| network(image, "its registry is too slow");
    tokio::time::timeout(limit, work).await.map_err(slow)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let of = |texts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, http::HeaderValue::from_static(text));
            }
            Challenge::of(&headers)
        };
        let bearer = r#"bearer Realm="https://auth.io/token?a=b",service="reg",scope="x,y""#;
        let realm = || "https://auth.io/token?a=b".to_string();
        let wanted = Some(Challenge { realm: realm(), service: Some("reg".into()) });
        assert_eq!(of(&[bearer]), wanted);
        assert_eq!(of(&[r#"Basic realm="x""#, bearer]), wanted);
        let both = r#"Basic realm="x", Bearer realm="https://auth.io/token?a=b""#;
        assert_eq!(of(&[both]), Some(Challenge { realm: realm(), service: None }));
        assert_eq!(of(&[r#"Basic realm="x""#]), None);
        assert_eq!(of(&["Bearer"]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn tokens_have_two_names() {
        assert_eq!(token(br#"{"token":"t","access_token":"a"}"#).as_deref(), Some("t"));
        assert_eq!(token(br#"{"token":"","access_token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(token(br#"{"token":null,"access_token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(token(b"{}"), None);
        assert_eq!(token(b"<html>"), None);
    }

    #[test]
    fn dockers_own_registry_is_elsewhere() {
        let at = |name: &str| {
            let image: Reference = name.parse().expect("a name");
            let (host, repository) = address(&image);
            format!("{host}/{repository}")
        };
        assert_eq!(at("docker.io/hello"), "index.docker.io/library/hello");
        assert_eq!(at("index.docker.io/hello"), "index.docker.io/library/hello");
        assert_eq!(at("docker.io/team/hello"), "index.docker.io/team/hello");
        assert_eq!(at("ghcr.io/hello"), "ghcr.io/hello");
    }
}
