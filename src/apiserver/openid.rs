//! How others verify the tokens of service accounts: OpenID Connect's discovery document and the
//! public key.

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Method, Response, StatusCode, request};
use serde_json::json;

use super::subresource::method_not_allowed;
use super::tokens::{ISSUER, Signer};
use super::{Body, reply};
use crate::api::ApiError;

const CONFIGURATION: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// Answers a request below `/.well-known` or `/openid` of a user who may read it.
pub fn respond(signer: &Signer, parts: &request::Parts) -> Result<Response<Body>, ApiError> {
    let (media, document) = match parts.uri.path() {
        CONFIGURATION => {
            let document = json!({
                "issuer": ISSUER,
                "jwks_uri": format!("{ISSUER}{KEYS}"),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            });
            ("application/json", document)
        }
        KEYS => ("application/jwk-set+json", signer.key_set()),
        _ => return Ok(reply::no_such_path()),
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(method_not_allowed());
    }
    let mut response = reply::bytes(StatusCode::OK, media, document.to_string());
    let hour = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(CACHE_CONTROL, hour);
    Ok(response)
}
