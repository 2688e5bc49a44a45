//! Which objects a command is about: types, names and labels as kubectl takes them.

use anyhow::bail;

use super::args::SelectArgs;
use super::discovery::Resource;
use super::session::Session;
use crate::client::remote::Query;

/// Objects of one resource: all of them, or one by name.
#[derive(Clone, Debug)]
pub struct Selected {
    pub resource: Resource,
    pub name: Option<String>,
}

impl Selected {
    /// The URL's path. `None` as the namespace means all of them.
    pub fn path(&self, namespace: Option<&str>) -> String {
        self.resource.gvr.path(namespace, self.name.as_deref(), None)
    }

    /// `deployment.apps/web`, as kubectl names objects.
    pub fn title(&self) -> String {
        title(&self.resource, self.name.as_deref().unwrap_or_default())
    }
}

/// `deployment.apps/web`, `pod/web`.
pub fn title(resource: &Resource, name: &str) -> String {
    let group = &resource.gvr.group;
    let dot = if group.is_empty() { "" } else { "." };
    format!("{}{dot}{group}/{name}", resource.singular)
}

/// What was typed, resolved by discovery.
pub async fn resolve(session: &Session, what: &[String]) -> anyhow::Result<Vec<Selected>> {
    let discovery = session.discovery().await?;
    let Some(first) = what.first() else {
        bail!("say what: a TYPE such as pods, TYPE NAME, or TYPE/NAME");
    };
    if what.iter().any(|word| word.contains('/')) {
        return what.iter().map(|word| one(session_find(discovery, word)?)).collect();
    }
    let mut selected = Vec::new();
    for word in first.split(',') {
        let category = discovery.category(word);
        let members = match category.is_empty() {
            true => vec![discovery.find(word)?],
            false => category,
        };
        for resource in members {
            if what.len() == 1 {
                selected.push(Selected { resource: resource.clone(), name: None });
            }
            for name in &what[1..] {
                selected.push(Selected { resource: resource.clone(), name: Some(name.clone()) });
            }
        }
    }
    Ok(selected)
}

fn session_find<'a>(
    discovery: &'a super::discovery::Discovery,
    word: &str,
) -> anyhow::Result<(&'a Resource, String)> {
    match word.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((discovery.find(kind)?, name.to_string()))
        }
        _ => bail!("{word:?} is not of the form TYPE/NAME; the forms cannot be mixed"),
    }
}

fn one((resource, name): (&Resource, String)) -> anyhow::Result<Selected> {
    Ok(Selected { resource: resource.clone(), name: Some(name) })
}

/// `TYPE/NAME` words, each one object.
pub async fn named(session: &Session, what: &[String]) -> anyhow::Result<Vec<Selected>> {
    let selected = resolve(session, what).await?;
    if let Some(nameless) = selected.iter().find(|s| s.name.is_none()) {
        bail!("name the object: {}/NAME", nameless.resource.singular);
    }
    Ok(selected)
}

impl SelectArgs {
    /// The namespace of the requests: `None` for all of them.
    pub fn namespace<'a>(&self, session: &'a Session) -> Option<&'a str> {
        (!self.all_namespaces).then_some(session.namespace.as_str())
    }

    /// The label selector as a query.
    pub fn query(&self) -> Query {
        let mut query = Query::default();
        query.add("labelSelector", self.selector.as_deref().unwrap_or_default());
        query
    }
}
