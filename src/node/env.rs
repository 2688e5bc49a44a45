//! The environment, arguments and mount paths of a container: `$(VAR)` expansion, values from
//! ConfigMaps, Secrets and fields. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use crate::api::kinds::ephemeral_containers::as_container;
use crate::volumes::{Context, Need, VolumeError, field_ref};

/// The variable of the host name, which every container runtime sets.
const HOST_NAME: &str = "HOSTNAME";

/// An environment in the order of its definition; a later definition of a name wins in place.
#[derive(Clone, Debug, Default)]
pub struct Env {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Env {
    pub fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.index.insert(name.to_string(), self.list.len());
                self.list.push((name.to_string(), value));
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|at| self.list[*at].1.as_str())
    }

    /// For the program, with its host name where the container sets none. No definition sees that
    /// one, as with containerd: kubelet, which expands, does not know of it.
    pub fn into_list(self, host_name: &str) -> Vec<(String, String)> {
        let mut list = self.list;
        if !self.index.contains_key(HOST_NAME) {
            list.insert(0, (HOST_NAME.to_string(), host_name.to_string()));
        }
        list
    }
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar sign, an unknown name stays as it is.
/// Source: core/v1 EnvVar.value.
pub fn expand(text: &str, env: &Env) -> String {
    replace(text, env).0
}

/// [`expand`], where every name must be known (core/v1 VolumeMount.subPathExpr).
pub fn expand_known(text: &str, env: &Env) -> Result<String, VolumeError> {
    match replace(text, env) {
        (text, None) => Ok(text),
        (_, Some(name)) => Err(VolumeError::Invalid(format!("missing value for {name:?}"))),
    }
}

/// The text with its names replaced, and the first name that is not known.
fn replace<'a>(text: &'a str, env: &Env) -> (String, Option<&'a str>) {
    let mut out = String::with_capacity(text.len());
    let mut unknown = None;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(more) = after.strip_prefix('$') {
            out.push('$');
            rest = more;
        } else if let Some((name, more)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    unknown = unknown.or(Some(name));
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = more;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    (out, unknown)
}

/// The ConfigMaps and Secrets that a pod's environments are made from, each once.
pub fn needs(pod: &Pod) -> Vec<Need> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut needs = Vec::new();
    let debug: Vec<Container> =
        spec.ephemeral_containers.iter().flatten().map(as_container).collect();
    let inits = spec.init_containers.iter().flatten();
    for container in inits.chain(&spec.containers).chain(&debug) {
        for source in container.env_from.iter().flatten() {
            let map = source.config_map_ref.iter().map(|s| Need::ConfigMap(s.name.clone()));
            let secret = source.secret_ref.iter().map(|s| Need::Secret(s.name.clone()));
            needs.extend(map.chain(secret));
        }
        for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            let map = source.config_map_key_ref.iter().map(|s| Need::ConfigMap(s.name.clone()));
            let secret = source.secret_key_ref.iter().map(|s| Need::Secret(s.name.clone()));
            needs.extend(map.chain(secret));
        }
    }
    needs.sort();
    needs.dedup();
    needs
}

/// The environment of a container. `links` are told first, so that the container may set them
/// otherwise; a definition sees them if it refers to them (kubelet's makeEnvironmentVariables).
pub fn build(
    context: &Context,
    container: &Container,
    links: Vec<(String, String)>,
) -> Result<Env, VolumeError> {
    let mut env = Env::default();
    for (name, value) in links {
        env.set(&name, value);
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(from) = &source.config_map_ref {
            match context.objects.config_maps.get(&from.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if from.optional == Some(true) => {}
                None => return missing(format!("configmap {:?} not found", from.name)),
            }
        }
        if let Some(from) = &source.secret_ref {
            match context.objects.secrets.get(&from.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let text = String::from_utf8_lossy(&value.0).into_owned();
                        env.set(&format!("{prefix}{key}"), text);
                    }
                }
                None if from.optional == Some(true) => {}
                None => return missing(format!("secret {:?} not found", from.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(context, container, variable, &env)? {
            env.set(&variable.name, value);
        }
    }
    Ok(env)
}

fn missing<T>(text: String) -> Result<T, VolumeError> {
    Err(VolumeError::Missing(text))
}

/// The value of one variable; `None` where an optional source is missing.
fn value(
    context: &Context,
    container: &Container,
    variable: &EnvVar,
    env: &Env,
) -> Result<Option<String>, VolumeError> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), env)));
    };
    let namespace = context.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return field_ref::field(context, &field.field_path).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return field_ref::resource(context, &container.name, resource).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = context.objects.config_maps.get(&key.name) else {
            return absent(optional, format!("configmap {:?} not found", key.name));
        };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(text) => Ok(Some(text.clone())),
            None => absent(
                optional,
                format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name),
            ),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = context.objects.secrets.get(&key.name) else {
            return absent(optional, format!("secret {:?} not found", key.name));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(bytes) => Ok(Some(String::from_utf8_lossy(&bytes.0).into_owned())),
            None => absent(
                optional,
                format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name),
            ),
        };
    }
    let text = format!("environment variable {:?} has an unknown source", variable.name);
    Err(VolumeError::Invalid(text))
}

fn absent(optional: bool, text: String) -> Result<Option<String>, VolumeError> {
    if optional { Ok(None) } else { missing(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_is_there_unless_it_is_set() {
        let text = |env: Env| {
            let list = env.into_list("web-0");
            list.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let mut env = Env::default();
        env.set("A", expand("$(HOSTNAME)", &env));
        assert_eq!(text(env.clone()), ["HOSTNAME=web-0", "A=$(HOSTNAME)"]);
        env.set("HOSTNAME", "mine".into());
        assert_eq!(text(env), ["A=$(HOSTNAME)", "HOSTNAME=mine"]);
    }

    #[test]
    fn expansion_follows_the_api() {
        let mut env = Env::default();
        env.set("A", "1".into());
        env.set("B", expand("$(A)2", &env));
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y12"),
            ("$$(A)", "$(A)"),
            ("$(NOPE)", "$(NOPE)"),
            ("$A ${A} $(A", "$A ${A} $(A"),
            ("a$", "a$"),
            ("$$", "$"),
        ];
        for (text, wanted) in cases {
            assert_eq!(expand(text, &env), wanted, "{text}");
        }
        assert_eq!(expand_known("$(A)/$(B)", &env).ok().as_deref(), Some("1/12"));
        let error = expand_known("$(A)/$(NOPE)", &env).unwrap_err();
        assert_eq!(error.to_string(), "missing value for \"NOPE\"");
    }
}
