//! Which repositories and tags there are, in pages (OCI distribution-spec, "Content Discovery").

use std::fs;
use std::io;
use std::path::Path;

use http::header::LINK;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::Artifacts;
use super::errors::{OciError, OciResult};
use super::routes::field;
use crate::apiserver::{Body, reply};

/// Longest page, and the length of a page when the client does not say.
const MAX_PAGE: usize = 1000;

impl Artifacts {
    pub(super) fn catalog(&self, query: &str) -> OciResult<Response<Body>> {
        let (page, next) = page(self.repositories()?, query);
        let mut response = reply::json(StatusCode::OK, &json!({"repositories": page}));
        link(&mut response, "/v2/_catalog", next);
        Ok(response)
    }

    pub(super) fn tags(&self, repository: &str, query: &str) -> OciResult<Response<Body>> {
        if !self.repository_dir(repository).join("_manifests").is_dir() {
            let message = format!("nothing was pushed to {repository}");
            return Err(OciError::missing("NAME_UNKNOWN", message));
        }
        let (page, next) = page(self.tag_names(repository)?, query);
        let mut response = reply::json(StatusCode::OK, &json!({"name": repository, "tags": page}));
        link(&mut response, &format!("/v2/{repository}/tags/list"), next);
        Ok(response)
    }

    pub(super) fn tag_names(&self, repository: &str) -> io::Result<Vec<String>> {
        names(&self.repository_dir(repository).join("_tags"))
    }

    /// The names of all repositories, in order.
    pub(super) fn repositories(&self) -> io::Result<Vec<String>> {
        let root = self.dir.join("repositories");
        let mut found = Vec::new();
        let mut unread = vec![String::new()];
        while let Some(name) = unread.pop() {
            let dir = if name.is_empty() { root.clone() } else { root.join(&name) };
            for part in names(&dir)? {
                match (part.starts_with('_'), &*name) {
                    (true, _) if part == "_manifests" => found.push(name.clone()),
                    (true, _) => {}
                    (false, "") => unread.push(part),
                    (false, parent) => unread.push(format!("{parent}/{part}")),
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// The entries of a directory, in order; none if it is not there.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A page after `last` of at most `n` names, and the query of the next one.
pub(super) fn page(names: Vec<String>, query: &str) -> (Vec<String>, Option<String>) {
    let limit = field(query, "n").and_then(|n| n.parse().ok()).unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let last = field(query, "last").unwrap_or_default();
    let mut rest = names.into_iter().filter(|name| *name > last).peekable();
    let page: Vec<String> = rest.by_ref().take(limit).collect();
    let next = page.last().filter(|_| rest.peek().is_some()).map(|l| format!("n={limit}&last={l}"));
    (page, next)
}

pub(super) fn link(response: &mut Response<Body>, path: &str, next: Option<String>) {
    let value = next.map(|query| HeaderValue::from_str(&format!("<{path}?{query}>; rel=\"next\"")));
    if let Some(Ok(value)) = value {
        response.headers_mut().insert(LINK, value);
    }
}
