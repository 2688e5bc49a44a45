//! `wasmctl taint`: what keeps pods off nodes. `KEY=VALUE:EFFECT` adds, `KEY:EFFECT-` and `KEY-` remove.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};

use super::args::TaintArgs;
use super::discovery::text;
use super::selection::{self, Selected};
use super::session::Session;
use super::{printer, report};
use crate::api::names;
use crate::client::remote::Query;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Add {
        key: &'a str,
        value: &'a str,
        effect: &'a str,
    },
    /// Of every effect where none is named.
    Remove {
        key: &'a str,
        effect: Option<&'a str>,
    },
}

pub async fn run(session: &Session, args: &TaintArgs) -> anyhow::Result<()> {
    let is_change = |word: &String| word.contains(':') || word.contains('=') || word.ends_with('-');
    let first = args.words.iter().position(is_change).unwrap_or(args.words.len());
    let (what, changes) = args.words.split_at(first);
    let changes: Vec<Change<'_>> =
        changes.iter().map(|word| parse(word)).collect::<anyhow::Result<_>>()?;
    if changes.is_empty() {
        bail!("say which taint: KEY=VALUE:EFFECT to add, KEY:EFFECT- or KEY- to remove");
    }
    let mut failed = Vec::new();
    for node in nodes(session, args, what).await? {
        failed.extend(change(session, args, &node, &changes).await.err());
    }
    report::errors(failed)
}

async fn nodes(
    session: &Session,
    args: &TaintArgs,
    what: &[String],
) -> anyhow::Result<Vec<Selected>> {
    let selected = selection::resolve(session, what).await?;
    if let Some(other) = selected.iter().find(|one| one.resource.kind != "Node") {
        bail!("only nodes have taints, and {} is none", other.title());
    }
    match &selected[..] {
        [all] if all.name.is_none() && (args.all || args.selector.is_some()) => {
            let mut query = Query::default();
            query.add("labelSelector", args.selector.as_deref().unwrap_or_default());
            selection::members(session, all, &query).await
        }
        _ if selected.iter().any(|one| one.name.is_none()) => {
            bail!("name the nodes, or select them with -l or --all")
        }
        _ => Ok(selected),
    }
}

fn parse(word: &str) -> anyhow::Result<Change<'_>> {
    let (word, removes) = word.strip_suffix('-').map_or((word, false), |word| (word, true));
    let (name, effect) = word.split_once(':').map_or((word, None), |(n, e)| (n, Some(e)));
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    if let Some(effect) = effect.filter(|effect| !EFFECTS.contains(effect)) {
        bail!("{effect:?} is no effect; there are {}", EFFECTS.join(", "));
    }
    let wrong = names::is_qualified_name(key).into_iter().chain(names::is_label_value(value));
    if let Some(why) = wrong.into_iter().next() {
        bail!("{word:?}: {why}");
    }
    match effect {
        effect if removes => Ok(Change::Remove { key, effect }),
        Some(effect) => Ok(Change::Add { key, value, effect }),
        None => bail!("{word:?} has no effect; write KEY=VALUE:EFFECT, or KEY- to remove"),
    }
}

async fn change(
    session: &Session,
    args: &TaintArgs,
    node: &Selected,
    changes: &[Change<'_>],
) -> anyhow::Result<()> {
    let path = node.path(None);
    let live = session.get_json(&path).await?;
    let taints = live.pointer("/spec/taints").and_then(Value::as_array);
    let taints = apply(taints.cloned().unwrap_or_default(), changes, args.overwrite)
        .with_context(|| node.title())?;
    // Whoever wrote the node meanwhile wins: what was looked at is not true any more.
    let version = text(&live, "/metadata/resourceVersion");
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
    let body = Some(("application/merge-patch+json", patch.to_string().into_bytes()));
    session.json(Method::PATCH, &format!("{path}?fieldManager=wasmctl-taint"), body).await?;
    let adds = changes.iter().any(|one| matches!(one, Change::Add { .. }));
    let removes = changes.iter().any(|one| matches!(one, Change::Remove { .. }));
    let done = match (adds, removes) {
        (true, true) => "modified",
        (true, false) => "tainted",
        _ => "untainted",
    };
    Ok(printer::line(&format!("{} {done}", node.title()))?)
}

fn apply(
    mut taints: Vec<Value>,
    changes: &[Change<'_>],
    overwrite: bool,
) -> anyhow::Result<Vec<Value>> {
    for change in changes {
        let is = |taint: &Value, key: &str, effect: Option<&str>| {
            text(taint, "/key") == key && effect.is_none_or(|one| text(taint, "/effect") == one)
        };
        match change {
            Change::Remove { key, effect } => {
                let before = taints.len();
                taints.retain(|taint| !is(taint, key, *effect));
                if taints.len() == before {
                    let effect = effect.map(|effect| format!(":{effect}")).unwrap_or_default();
                    bail!("taint \"{key}{effect}\" not found");
                }
            }
            Change::Add { key, value, effect } => {
                let there = taints.iter().position(|taint| is(taint, key, Some(effect)));
                if there.is_some() && !overwrite {
                    bail!(
                        "already has {key} taint(s) with same effect(s) and --overwrite is false"
                    );
                }
                let mut taint = json!({"key": key, "effect": effect});
                if !value.is_empty() {
                    taint["value"] = json!(value);
                }
                match there {
                    Some(at) => taints[at] = taint,
                    None => taints.push(taint),
                }
            }
        }
    }
    Ok(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_added_replaced_and_removed() {
        let add = parse("dedicated=batch:NoSchedule").unwrap();
        let wanted = Change::Add { key: "dedicated", value: "batch", effect: "NoSchedule" };
        assert_eq!(add, wanted);
        for bad in ["dedicated", "a=b", "a:Never", "=b:NoSchedule", "a=b c:NoSchedule"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let there = vec![json!({"key": "dedicated", "value": "web", "effect": "NoSchedule"})];
        let error = apply(there.clone(), &[parse("dedicated=batch:NoSchedule").unwrap()], false);
        assert!(error.unwrap_err().to_string().contains("--overwrite is false"));
        let replaced = apply(there.clone(), &[add], true).unwrap();
        assert_eq!(replaced[0]["value"], "batch");
        let more = apply(there.clone(), &[parse("gone:NoExecute").unwrap()], false).unwrap();
        assert_eq!(more[1], json!({"key": "gone", "effect": "NoExecute"}));
        for removes in ["dedicated-", "dedicated:NoSchedule-"] {
            let none = apply(there.clone(), &[parse(removes).unwrap()], false).unwrap();
            assert!(none.is_empty(), "{removes}");
        }
        let other = apply(there, &[parse("dedicated:NoExecute-").unwrap()], false);
        assert_eq!(other.unwrap_err().to_string(), "taint \"dedicated:NoExecute\" not found");
    }
}
