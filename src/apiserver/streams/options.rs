//! The options of a connection (PodExecOptions and their sisters), from the query.

use serde_json::{Map, Value, json};

use crate::api::{ApiError, Object};
use crate::apiserver::request::{Query, percent_encode};
use crate::apiserver::service::Call;

/// The most words of a command, and ports of one connection.
const MAX_WORDS: usize = 1024;
const MAX_PORTS: usize = 64;

/// All of them; a connection has those that its kind knows.
#[derive(Clone, Debug, Default)]
pub struct Options {
    kind: &'static str,
    pub container: String,
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    pub ports: Vec<u16>,
}

impl Options {
    /// # Errors
    /// 400 for what makes no sense.
    pub fn of(call: &Call, query: &Query) -> Result<Options, ApiError> {
        let part = call.subresource.as_str();
        let kind = super::CONNECTS.iter().find(|(name, _)| *name == part).map(|(_, kind)| *kind);
        let mut options = Options { kind: kind.unwrap_or_default(), ..Options::default() };
        if part == "portforward" {
            // Python writes one list, kube-rs one parameter for each.
            let all = query.all("ports").flat_map(|list| list.split(','));
            for text in all.filter(|text| !text.is_empty()) {
                let port = text.trim().parse().ok().filter(|port| *port > 0);
                options.ports.push(port.ok_or_else(|| {
                    ApiError::bad_request(format!(
                        "{text:?} is no port: it must be from 1 to 65535"
                    ))
                })?);
            }
            if options.ports.len() > MAX_PORTS {
                let text = format!("at most {MAX_PORTS} ports can be forwarded by one connection");
                return Err(ApiError::bad_request(text));
            }
            return Ok(options);
        }
        options.container = query.get("container").to_string();
        options.stdin = query.flag("stdin");
        options.stdout = query.flag("stdout");
        options.tty = query.flag("tty");
        // A terminal shows both as one.
        options.stderr = query.flag("stderr") && !options.tty;
        if part == "exec" {
            options.command = query.all("command").map(str::to_string).collect();
            if options.command.iter().all(String::is_empty) {
                let text = "you must specify at least one command for the container";
                return Err(ApiError::bad_request(text));
            }
            if options.command.len() > MAX_WORDS {
                let text = format!("a command of more than {MAX_WORDS} words");
                return Err(ApiError::bad_request(text));
            }
        }
        Ok(options)
    }

    /// As an object, for admission.
    pub fn object(&self, container: &str) -> Result<Object, ApiError> {
        let mut fields = Map::new();
        fields.insert("apiVersion".into(), "v1".into());
        fields.insert("kind".into(), self.kind.into());
        if self.kind == "PodPortForwardOptions" {
            if !self.ports.is_empty() {
                fields.insert("ports".into(), json!(self.ports));
            }
        } else {
            fields.insert("container".into(), container.into());
            for (name, on) in self.flags().filter(|(_, on)| *on) {
                fields.insert(name.into(), on.into());
            }
            if !self.command.is_empty() {
                fields.insert("command".into(), json!(self.command));
            }
        }
        Object::from_value(Value::Object(fields))
    }

    fn flags(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let Options { stdin, stdout, stderr, tty, .. } = *self;
        [("stdin", stdin), ("stdout", stdout), ("stderr", stderr), ("tty", tty)].into_iter()
    }

    /// As the node agent takes them.
    pub fn node_query(&self) -> String {
        let flags = self.flags().filter(|(_, on)| *on).map(|(name, _)| format!("{name}=true"));
        let words = self.command.iter().map(|word| format!("command={}", percent_encode(word)));
        let all: Vec<String> = flags.chain(words).collect();
        if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_node_as_they_are() {
        assert_eq!(percent_encode("a b=c&d/é"), "a%20b%3Dc%26d/%C3%A9");
        let options =
            Options { command: vec!["x".into(), "".into()], tty: true, ..Options::default() };
        assert_eq!(options.node_query(), "?tty=true&command=x&command=");
    }
}
