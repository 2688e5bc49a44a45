//! The webhooks that there are: all of them at the start, then each configuration that a commit of
//! this server touches, before the commit is answered.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use parking_lot::{Mutex, RwLock};

use super::conditions::{self, Compiled};
use super::connection::Caller;
use crate::api::kinds::webhook;
use crate::api::selector::Selector;
use crate::apiserver::service::Call;
use crate::store::{Key, Op, ReadError, SharedStore};

/// How many configurations are read at once when the table is filled.
const PAGE: usize = 500;
/// Upstream's default, for what was stored without one.
const TIMEOUT_SECONDS: u64 = 10;

static GROUP: LazyLock<Key> = LazyLock::new(|| Key::new(&["admissionregistration.k8s.io"]));

/// One webhook, ready to be asked.
pub struct Hook {
    pub configuration: String,
    pub spec: MutatingWebhook,
    pub namespaces: Selector,
    pub objects: Selector,
    pub timeout: Duration,
    /// Whether a write goes on when the webhook cannot be asked.
    pub fails_open: bool,
    pub conditions: Compiled,
    pub caller: Arc<Caller>,
}

/// The webhooks at one moment, in the order in which they are asked.
#[derive(Default)]
pub struct Table {
    pub mutating: Vec<Arc<Hook>>,
    pub validating: Vec<Arc<Hook>>,
    /// What the rules name, so that other resources cost one look.
    resources: HashSet<String>,
    all_resources: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Hooks {
    current: RwLock<Arc<Table>>,
    /// Held while stored configurations are read and taken in, so that an older one never comes
    /// last. By name, which is upstream's order.
    configurations: Mutex<Configurations>,
}

#[derive(Default)]
struct Configurations {
    mutating: BTreeMap<String, Vec<Arc<Hook>>>,
    validating: BTreeMap<String, Vec<Arc<Hook>>>,
}

impl Hooks {
    /// Reads everything stored. For the time before the first request.
    pub fn fill(&self, store: &SharedStore) -> Result<(), ReadError> {
        let mut configurations = self.configurations.lock();
        let mut after: Option<Key> = None;
        loop {
            let page = store.list(&GROUP, after.as_ref(), PAGE, None)?;
            for entry in &page.entries {
                configurations.take(&entry.key, Some(&entry.value));
            }
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
        *self.current.write() = Arc::new(configurations.table());
        Ok(())
    }

    /// The keys of configurations that a commit changes.
    pub fn touched(ops: &[Op]) -> impl Iterator<Item = &Key> {
        let keys = ops.iter().filter_map(|op| match op {
            Op::Put { key, .. } | Op::Delete { key, .. } => Some(key),
            Op::Check { .. } => None,
        });
        keys.filter(|key| key.starts_with(&GROUP))
    }

    /// Takes in what the store has at these keys now; others than those of configurations are
    /// nothing to it.
    pub fn refresh(&self, store: &SharedStore, keys: &[Key]) {
        let mut keys = keys.iter().filter(|key| key.starts_with(&GROUP)).peekable();
        if keys.peek().is_none() {
            return;
        }
        let mut configurations = self.configurations.lock();
        for key in keys {
            match store.get(key) {
                Ok(entry) => {
                    let json = entry.as_ref().map(|entry| &*entry.value);
                    configurations.take(key, json);
                }
                // What was known stays: to forget a webhook is to let pass what it refuses.
                Err(error) => tracing::error!(%error, "a webhook configuration cannot be read"),
            }
        }
        *self.current.write() = Arc::new(configurations.table());
    }

    /// The webhooks, if any of them may want to know of such a call.
    pub fn of(&self, call: &Call) -> Option<Arc<Table>> {
        let table = self.current.read();
        if !table.names(&call.info.gvr.resource) || is_exempt(call) {
            return None;
        }
        Some(table.clone())
    }
}

/// What no webhook is asked about.
fn is_exempt(call: &Call) -> bool {
    call.info.gvr.group == "admissionregistration.k8s.io" || call.info.meta.review
}

impl Table {
    fn names(&self, resource: &str) -> bool {
        self.all_resources || self.resources.contains(resource)
    }
}

impl Configurations {
    fn take(&mut self, key: &Key, json: Option<&[u8]>) {
        let parts = key.parts().and_then(|parts| <[String; 4]>::try_from(parts).ok());
        let Some([_, resource, _, name]) = parts else { return };
        match resource.as_str() {
            "mutatingwebhookconfigurations" => {
                let found = decoded::<MutatingWebhookConfiguration>(json);
                let hooks = found.and_then(|found| found.webhooks).unwrap_or_default();
                replace(&mut self.mutating, name, hooks);
            }
            "validatingwebhookconfigurations" => {
                let found = decoded::<ValidatingWebhookConfiguration>(json);
                let hooks = found.and_then(|found| found.webhooks).unwrap_or_default();
                let hooks = hooks.into_iter().map(webhook::of_validating).collect();
                replace(&mut self.validating, name, hooks);
            }
            _ => {}
        }
    }

    fn table(&self) -> Table {
        let listed = |all: &BTreeMap<String, Vec<Arc<Hook>>>| -> Vec<Arc<Hook>> {
            all.values().flatten().cloned().collect()
        };
        let mut table = Table {
            mutating: listed(&self.mutating),
            validating: listed(&self.validating),
            ..Table::default()
        };
        for hook in table.mutating.iter().chain(&table.validating) {
            let rules = hook.spec.rules.iter().flatten();
            for resource in rules.flat_map(|rule| rule.resources.iter().flatten()) {
                match resource.split('/').next().unwrap_or_default() {
                    "*" => table.all_resources = true,
                    name => {
                        table.resources.insert(name.to_string());
                    }
                }
            }
        }
        table
    }
}

fn decoded<T: serde::de::DeserializeOwned>(json: Option<&[u8]>) -> Option<T> {
    serde_json::from_slice(json?)
        .inspect_err(|error| tracing::error!(%error, "a stored webhook configuration is not used"))
        .ok()
}

/// A configuration's webhooks; those that are still at the same address keep their connections.
fn replace(all: &mut BTreeMap<String, Vec<Arc<Hook>>>, name: String, hooks: Vec<MutatingWebhook>) {
    let before = all.remove(&name).unwrap_or_default();
    if hooks.is_empty() {
        return;
    }
    let hooks = hooks.into_iter().map(|spec| {
        let same = before
            .iter()
            .find(|old| old.spec.name == spec.name && old.spec.client_config == spec.client_config);
        let caller = same.map(|old| old.caller.clone());
        Arc::new(Hook::of(&name, spec, caller))
    });
    let hooks = hooks.collect();
    all.insert(name, hooks);
}

impl Hook {
    fn of(configuration: &str, spec: MutatingWebhook, caller: Option<Arc<Caller>>) -> Hook {
        // A selector that cannot be read never passed validation; it selects nothing.
        let selector = |typed: &Option<_>| match typed {
            Some(typed) => Selector::from_typed(Some(typed)).unwrap_or(Selector::nothing()),
            None => Selector::default(),
        };
        let seconds = spec.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Hook {
            configuration: configuration.into(),
            namespaces: selector(&spec.namespace_selector),
            objects: selector(&spec.object_selector),
            timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT_SECONDS)),
            fails_open: spec.failure_policy.as_deref() == Some("Ignore"),
            conditions: conditions::compile(&spec),
            caller: caller.unwrap_or_else(|| Arc::new(Caller::of(&spec.client_config))),
            spec,
        }
    }
}
