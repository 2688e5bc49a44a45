//! The objects that a command is about which takes them by files, names or labels, or all of a type.

use anyhow::{Context, bail};
use serde_json::Value;

use super::args::TargetArgs;
use super::discovery::text;
use super::manifest;
use super::selection::Selected;
use super::session::Session;

/// An object by name, with the namespace that it is in.
pub struct Target {
    pub selected: Selected,
    pub namespace: Option<String>,
}

/// Refuses options of which one would be ignored: with deletion that is dangerous.
fn check(args: &TargetArgs) -> anyhow::Result<()> {
    let select = &args.select;
    if !args.filename.is_empty() {
        if !select.what.is_empty() {
            bail!("TYPE and NAME cannot be given when a file is (-f)");
        }
        if select.selector.is_some()
            || args.all
            || select.all_namespaces
            || args.field_selector.is_some()
        {
            bail!("-l, --field-selector, --all and -A cannot be given when a file is (-f)");
        }
    }
    if args.all && select.selector.is_some() {
        bail!("--all and a selector (-l) cannot be given together");
    }
    Ok(())
}

/// The objects, one by one; those that were named need not exist.
pub async fn resolve(session: &Session, args: &TargetArgs) -> anyhow::Result<Vec<Target>> {
    check(args)?;
    let mut targets = Vec::new();
    if !args.filename.is_empty() {
        for mut manifest in manifest::read(&args.filename, args.recursive)? {
            let source = manifest.source.clone();
            let (resource, target) =
                manifest.locate(session).await.with_context(|| source.clone())?;
            let name = Some(target.name.with_context(|| format!("{source}: no metadata.name"))?);
            let selected = Selected { resource, name };
            targets.push(Target { selected, namespace: target.namespace });
        }
        return Ok(targets);
    }
    let is_narrowed = args.select.selector.is_some() || args.field_selector.is_some();
    for selected in args.select.resolve(session).await? {
        if selected.name.is_some() {
            if args.all || args.field_selector.is_some() {
                bail!("a name cannot be given with --all or --field-selector");
            }
            targets.push(Target { selected, namespace: Some(session.namespace.clone()) });
            continue;
        }
        if !is_narrowed && !args.all {
            bail!(
                "resource(s) were provided, but no name was specified: name the {}, or give -l \
                 LABELS or --all",
                selected.resource.gvr.resource
            );
        }
        let mut query = args.select.query();
        query.add("fieldSelector", args.field_selector.as_deref().unwrap_or_default());
        let path = query.on(&selected.path(args.select.namespace(session)));
        let list = session.get_json(&path).await?;
        for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
            let name = Some(text(item, "/metadata/name").to_string());
            let selected = Selected { name, ..selected.clone() };
            let namespace = Some(text(item, "/metadata/namespace").to_string());
            targets.push(Target { selected, namespace });
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Verb};
    use super::*;
    use clap::Parser;

    fn args(words: &str) -> TargetArgs {
        let words = ["wasmctl", "delete"].into_iter().chain(words.split(' '));
        match Cli::parse_from(words).verb {
            Verb::Delete(args) => args.targets,
            _ => panic!("another verb"),
        }
    }

    #[test]
    fn nothing_that_narrows_a_deletion_is_ignored() {
        let refused = |words: &str| check(&args(words)).is_err();
        assert!(refused("-f x.yaml pod a"));
        assert!(refused("-f x.yaml -l a=b"));
        assert!(refused("-f x.yaml --field-selector a=b"));
        assert!(refused("-f x.yaml -A"));
        assert!(refused("pods --all -l a=b"));
        assert!(!refused("-f x.yaml"));
        assert!(!refused("pods -l a=b -A"));
    }
}
