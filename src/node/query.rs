//! Queries of the requests that the control plane sends over the tunnel.

use crate::api::ApiError;

/// The pairs of a query, values decoded.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key, decode(value))
    })
}

/// What a parameter must be.
pub fn wrong(key: &str, what: &str) -> ApiError {
    ApiError::bad_request(format!("the query parameter {key} must be {what}"))
}

pub fn flag(key: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(wrong(key, "true or false")),
    }
}

/// Percent-decoding; a broken sequence stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|two| hex::decode(two).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                out.extend_from_slice(&byte);
                rest = &more[2..];
            }
            (b'+', _) => {
                out.push(b' ');
                rest = more;
            }
            _ => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
