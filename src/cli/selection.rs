//! Which objects a command is about: types, names and labels as kubectl takes them.

use anyhow::{Context, bail};
use serde_json::Value;

use super::args::SelectArgs;
use super::discovery::{Discovery, Resource, text};
use super::session::Session;
use crate::api::names;
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
    if what.is_empty() {
        bail!("say what: a TYPE such as pods, TYPE NAME, or TYPE/NAME");
    }
    words(session.discovery().await?, what)
}

fn words(discovery: &Discovery, what: &[String]) -> anyhow::Result<Vec<Selected>> {
    if what.iter().any(|word| word.contains('/')) {
        return what.iter().map(|word| type_and_name(discovery, word)).collect();
    }
    let (first, names) = what.split_first().context("nothing was named")?;
    for name in names {
        check_name(name)?;
    }
    let mut selected = Vec::new();
    for word in first.split(',') {
        let category = discovery.category(word);
        let members = match category.is_empty() {
            true => vec![discovery.find(word)?],
            false => category,
        };
        for resource in members {
            let select = |name| Selected { resource: resource.clone(), name };
            match names.is_empty() {
                true => selected.push(select(None)),
                false => selected.extend(names.iter().map(|name| select(Some(name.clone())))),
            }
        }
    }
    Ok(selected)
}

/// A word that contains a slash.
fn type_and_name(discovery: &Discovery, word: &str) -> anyhow::Result<Selected> {
    let Some((kind, name)) = word.split_once('/').filter(|(kind, _)| !kind.is_empty()) else {
        bail!(
            "{word:?} is not of the form TYPE/NAME; use either TYPE NAME… or TYPE/NAME…, not both"
        );
    };
    check_name(name)?;
    Ok(Selected { resource: discovery.find(kind)?.clone(), name: Some(name.to_string()) })
}

/// Refuses what would be another path than an object's. An empty name above all: its path is that
/// of the whole collection.
pub fn check_name(name: &str) -> anyhow::Result<()> {
    if name.is_empty() {
        bail!("resource name may not be empty");
    }
    let mut wrong = names::is_path_segment(name);
    wrong.extend(
        ['?', '#']
            .into_iter()
            .filter(|c| name.contains(*c))
            .map(|c| format!("may not contain '{c}'")),
    );
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("invalid resource name {name:?}: {}", wrong.join(", ")),
    }
}

/// One object by name: `TYPE NAME` or `TYPE/NAME` words, each one object.
pub async fn named(session: &Session, what: &[String]) -> anyhow::Result<Vec<Selected>> {
    let selected = resolve(session, what).await?;
    if let Some(nameless) = selected.iter().find(|s| s.name.is_none()) {
        bail!("name the object: {}/NAME", nameless.resource.singular);
    }
    Ok(selected)
}

/// Objects by name; a type without names stands for all of its objects in the namespace.
pub async fn named_or_all(session: &Session, what: &[String]) -> anyhow::Result<Vec<Selected>> {
    let mut all = Vec::new();
    for one in resolve(session, what).await? {
        match one.name {
            Some(_) => all.push(one),
            None => all.extend(members(session, &one, &Query::default()).await?),
        }
    }
    Ok(all)
}

/// The objects of a nameless selection in the session's namespace, one by one.
pub async fn members(
    session: &Session,
    one: &Selected,
    query: &Query,
) -> anyhow::Result<Vec<Selected>> {
    let list = session.get_json(&query.on(&one.path(Some(&session.namespace)))).await?;
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
    let member = |item| Selected {
        resource: one.resource.clone(),
        name: Some(text(item, "/metadata/name").to_string()),
    };
    Ok(items.map(member).collect())
}

impl SelectArgs {
    /// What was typed, resolved by discovery; refuses options that contradict each other.
    pub async fn resolve(&self, session: &Session) -> anyhow::Result<Vec<Selected>> {
        let selected = resolve(session, &self.what).await?;
        self.check(&selected)?;
        Ok(selected)
    }

    fn check(&self, selected: &[Selected]) -> anyhow::Result<()> {
        let mut named = selected.iter().filter(|one| one.name.is_some()).peekable();
        if named.peek().is_some() && self.selector.is_some() {
            bail!("name cannot be provided when a selector is specified");
        }
        if self.all_namespaces && named.any(|one| one.resource.gvr.namespaced) {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        Ok(())
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resource::Gvr;

    fn resource(
        group: &'static str,
        plural: &'static str,
        kind: &str,
        namespaced: bool,
    ) -> Resource {
        Resource {
            gvr: Gvr::new(group, "v1", plural, namespaced),
            kind: kind.into(),
            singular: kind.to_lowercase(),
            short_names: vec![],
            categories: vec![],
            subresources: vec![],
        }
    }

    fn select(what: &[&str]) -> anyhow::Result<Vec<Selected>> {
        let resources =
            vec![resource("", "pods", "Pod", true), resource("", "nodes", "Node", false)];
        let what: Vec<String> = what.iter().map(|word| word.to_string()).collect();
        words(&Discovery { resources }, &what)
    }

    fn refusal(what: &[&str]) -> String {
        select(what).unwrap_err().to_string()
    }

    #[test]
    fn words_are_types_and_names() {
        let titles = |what: &[&str]| -> Vec<String> {
            select(what).unwrap().iter().map(Selected::title).collect()
        };
        assert_eq!(titles(&["pods", "a", "b"]), ["pod/a", "pod/b"]);
        assert_eq!(titles(&["pod/a", "node/b"]), ["pod/a", "node/b"]);
        assert_eq!(titles(&["pods,nodes"]), ["pod/", "node/"]);
    }

    #[test]
    fn no_name_stands_for_a_whole_collection() {
        assert_eq!(refusal(&["pod", ""]), "resource name may not be empty");
        assert_eq!(refusal(&["pod/"]), "resource name may not be empty");
        assert_eq!(refusal(&["pod", ".."]), "invalid resource name \"..\": may not be '..'");
        for name in ["a?b", "a#b", "a%b"] {
            assert!(refusal(&["pod", name]).contains("may not contain"), "{name}");
        }
        assert!(refusal(&["pod/a/b"]).contains("may not contain '/'"));
        assert!(refusal(&["pods/a", "nodes"]).contains("TYPE/NAME"));
    }

    #[test]
    fn names_go_with_neither_labels_nor_all_namespaces() {
        let check = |all_namespaces, selector: Option<&str>, what: &[&str]| {
            let selector = selector.map(str::to_string);
            let args = SelectArgs { what: vec![], selector, all_namespaces };
            args.check(&select(what).unwrap()).map_err(|e| e.to_string())
        };
        assert_eq!(
            check(true, None, &["pod", "a"]).unwrap_err(),
            "a resource cannot be retrieved by name across all namespaces"
        );
        assert_eq!(
            check(false, Some("x"), &["pod", "a"]).unwrap_err(),
            "name cannot be provided when a selector is specified"
        );
        check(true, None, &["node", "a"]).unwrap();
        check(true, Some("x"), &["pods"]).unwrap();
    }
}
