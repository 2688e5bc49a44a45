use super::{Body, full};
use crate::api::registry::Registry;
use http::{Request, Response};
pub fn respond(_: &Registry, _: &Request<()>) -> Response<Body> {
    Response::new(full("{}"))
}
