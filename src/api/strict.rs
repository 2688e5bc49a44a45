//! Decoding that notices what a lenient decoder drops: unknown and duplicate fields.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;

/// Reads a type and lists the paths of fields that it does not know.
pub fn decode_typed<T: DeserializeOwned>(value: Value) -> Result<(T, Vec<String>), ApiError> {
    let mut unknown = Vec::new();
    let decoded = serde_ignored::deserialize(value, |path| unknown.push(path.to_string()));
    match decoded {
        Ok(object) => Ok((object, unknown)),
        Err(error) => Err(ApiError::bad_request(error.to_string())),
    }
}
