//! What a kind is: one trait for the typed rules ([`Kind`]), one table row without the type
//! ([`KindInfo`]). The pipeline works on rows; only a kind's own file knows its fields.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::field::Errors;
use super::object::Object;
use super::table::{Column, NAME_AND_AGE};

mod custom;
mod gvr;
mod review;
mod rules;
mod stored;

pub use custom::{CustomParts, ScalePaths};
pub use gvr::{Gvr, Scoped};
pub use review::Review;
pub use rules::{Draft, Operation, Rules};
use rules::{Typed, decode_stored};
pub use stored::{Shape, StoredAs};

/// What is the same for all objects of a kind. All text in here is what upstream uses. The names in
/// it are those of built-in kinds: readers of rows take [`KindInfo::singular`] and its like, which
/// custom resources have too.
pub struct KindMeta {
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    /// `all`, for instance.
    pub categories: &'static [&'static str],
    /// Has a `/status` subresource: `status` is written only there, the rest only on the main one.
    pub status: bool,
    /// A creator may set `status` as well (Nodes register with it).
    pub status_on_create: bool,
    /// Has a `/scale` subresource at `spec.replicas`, `status.replicas` and `spec.selector`.
    pub scale: bool,
    /// Subresources with a meaning of their own (`pods/log`), beside status and scale.
    pub subresources: &'static [Subresource],
    /// What raises `metadata.generation`.
    pub generation: Generation,
    /// A finished deletion answers with the object instead of a Status.
    pub delete_returns_object: bool,
    /// May be deleted as a collection (all but namespaces).
    pub delete_collection: bool,
    /// May be replaced without saying which version is replaced.
    pub unconditional_update: bool,
    /// The rule that names obey.
    pub name_rule: NameRule,
    /// Field selectors beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Told with every answer: what to use instead of a kind that is on its way out. Empty for the
    /// others.
    pub deprecation: &'static str,
    /// Made by the server of what it knows, and only read: nothing of it is stored.
    pub computed: bool,
    /// Computed of what nodes tell at each read: such objects are not watched.
    pub measured: bool,
    /// A question: it is created only, answered with its status, and never stored. See [`Review`].
    pub review: bool,
}

/// A subresource as discovery shows it, e.g. `eviction`, policy/v1 `Eviction`, create.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// Which names are valid (k8s.io/apimachinery/pkg/api/validation/name.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 characters.
    Subdomain,
    /// RFC 1123 label, at most 63 characters.
    Label,
    /// RFC 1035 label (Services): begins with a letter.
    Label1035,
    /// Only safe as a path segment (RBAC roles).
    PathSegment,
    /// An IP address in canonical form (IPAddress).
    Address,
}

/// When `metadata.generation`, which begins at 1, is raised (each kind's `strategy.go` upstream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// When anything but metadata and status changes.
    Spec,
    /// Also when annotations change.
    SpecAndAnnotations,
    /// When anything but metadata changes (custom resources without a status subresource).
    AllButMetadata,
}

/// The usual row; a kind's file changes what differs.
pub const DEFAULT_META: KindMeta = KindMeta {
    singular: "",
    short_names: &[],
    categories: &[],
    status: false,
    status_on_create: false,
    scale: false,
    subresources: &[],
    generation: Generation::None,
    delete_returns_object: false,
    delete_collection: true,
    unconditional_update: true,
    name_rule: NameRule::Subdomain,
    selectable: &[],
    deprecation: "",
    computed: false,
    measured: false,
    review: false,
};

/// A kind's typed rules over k8s-openapi's type. Everything has a default but the names.
pub trait Kind:
    k8s_openapi::Resource<Scope: Scoped>
    + k8s_openapi::ListableResource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + JsonSchema
    + Clone
    + PartialEq
    + Send
    + Sync
    + 'static
{
    const META: KindMeta;

    /// Sets what the user left out. Runs on every write, before and after mutating admission, so
    /// it is idempotent; `old` is the stored object on updates.
    fn set_defaults(&mut self, _old: Option<&Self>) {}

    /// Clears or sets what only the system decides (a new Pod's phase, say). The pipeline itself
    /// clears `status` on create (but see [`KindMeta::status_on_create`]) and keeps it on update
    /// where [`KindMeta::status`] is set.
    fn prepare_create(&mut self) {}

    fn prepare_update(&mut self, _old: &Self) {}

    /// The kind's own validation; metadata is validated by the pipeline.
    fn validate(&self, _errors: &mut Errors) {}

    /// Rules for new objects only, after [`Kind::validate`].
    fn validate_create(&self, _errors: &mut Errors) {}

    /// Rules about change (immutable fields), after [`Kind::validate`].
    fn validate_update(&self, _old: &Self, _errors: &mut Errors) {}

    /// Rules about a change of `/ephemeralcontainers`, after [`Kind::validate`].
    fn validate_ephemeral_containers_update(&self, _old: &Self, _errors: &mut Errors) {}

    /// Rules about a change of `/status`.
    fn validate_status_update(&self, _old: &Self, _errors: &mut Errors) {}

    /// Fields that are accepted and stored but that Wasm pods cannot honour: each text goes to the
    /// user as a `Warning:` header.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What becomes of single fields: an error for what is refused, a warning for what has no effect,
    /// before the others. `rendered` is the object itself.
    fn check_fields(&self, _rendered: &Object, _errors: &mut Errors, _: &mut Vec<String>) {}

    fn columns() -> &'static [Column] {
        NAME_AND_AGE
    }

    /// One cell a column.
    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![super::table::name(self.metadata()), super::table::age(self.metadata(), now)]
    }

    /// The value of a field of [`KindMeta::selectable`]; "" where it is not set.
    fn field(&self, _field: &str) -> String {
        String::new()
    }

    /// A stored object, with its name and what [`Kind::field`] reads at least.
    ///
    /// # Errors
    /// When it is none of this kind.
    fn selected(raw: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(raw)
    }

    /// The spec of a Pod, which most of its writes leave as it is: it is not decoded and rendered
    /// anew with each of them.
    fn pod_spec(&mut self) -> Option<&mut Option<PodSpec>> {
        None
    }

    /// A secondary index of caches: Pods give their node's name here; `None` is not indexed.
    fn index(&self) -> Option<String> {
        None
    }

    /// Further texts under which caches find it, see [`tags`](super::tags).
    fn tags(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether an update left its tags as they were.
    fn has_tags_of(&self, old: &Self) -> bool {
        self.tags() == old.tags()
    }
}

/// A kind without its type; rows of [`super::registry::Registry`].
pub struct KindInfo {
    pub gvr: Gvr,
    pub kind: Cow<'static, str>,
    pub list_kind: Cow<'static, str>,
    pub singular: Cow<'static, str>,
    pub short_names: Vec<Cow<'static, str>>,
    pub categories: Vec<Cow<'static, str>>,
    /// Field selectors beside `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<Cow<'static, str>>,
    pub meta: KindMeta,
    /// Adds the kind's schema and answers with a reference to it (for OpenAPI).
    pub schema: AddSchema,
    /// What only custom resources have.
    pub custom: Option<CustomParts>,
    /// The form that objects are stored in, where it may be another than the row's own.
    pub stored: Option<StoredAs>,
    /// The typed rules.
    pub rules: Box<dyn Rules>,
}

/// Registers a kind's schema and what it depends on, and answers with a reference to it.
pub type AddSchema = Arc<dyn Fn(&mut schemars::SchemaGenerator) -> schemars::Schema + Send + Sync>;

/// Only an API server is asked for schemas. Those of all kinds would make a node's program larger.
fn add_schema<T: Kind>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    if cfg!(feature = "control-plane") {
        generator.subschema_for::<T>()
    } else {
        schemars::Schema::default()
    }
}

impl KindInfo {
    /// Whether objects of the row are stored at all.
    pub fn is_stored(&self) -> bool {
        !self.meta.review && !self.meta.computed
    }

    /// Where objects are stored.
    pub fn stored_gvr(&self) -> &Gvr {
        self.stored.as_ref().map_or(&self.gvr, |stored| &stored.gvr)
    }

    /// What is told with every answer about a kind that is on its way out.
    pub fn deprecation(&self) -> Option<&str> {
        let own = Some(self.meta.deprecation).filter(|text| !text.is_empty());
        own.or_else(|| self.custom.as_ref().and_then(|custom| custom.deprecation.as_deref()))
    }

    /// Whether the row shows the objects that another built-in row stores: work that is done for
    /// each stored object leaves it out.
    pub fn is_view(&self) -> bool {
        self.custom.is_none() && *self.stored_gvr() != self.gvr
    }

    /// The row of a type whose objects are stored in the form of another, `S`.
    pub fn shape_of<T: Kind, S: Kind>(shape: Shape) -> KindInfo {
        let stored = Some(StoredAs { gvr: Gvr::of::<S>(), shape: Some(shape) });
        KindInfo { stored, ..KindInfo::of::<T>() }
    }

    /// The row of a type.
    pub fn of<T: Kind>() -> KindInfo {
        KindInfo {
            gvr: Gvr::of::<T>(),
            kind: T::KIND.into(),
            list_kind: T::LIST_KIND.into(),
            singular: T::META.singular.into(),
            short_names: texts(T::META.short_names),
            categories: texts(T::META.categories),
            selectable: texts(T::META.selectable),
            meta: T::META,
            schema: Arc::new(add_schema::<T>),
            custom: None,
            stored: None,
            rules: Box::new(Typed::<T>(PhantomData)),
        }
    }

    /// The verbs that discovery lists.
    pub fn verbs(&self) -> Vec<&'static str> {
        if self.meta.review {
            return vec!["create"];
        }
        if self.meta.measured {
            return vec!["get", "list"];
        }
        if self.meta.computed {
            return vec!["get", "list", "watch"];
        }
        let mut verbs = vec!["create", "delete", "get", "list", "patch", "update", "watch"];
        if self.meta.delete_collection {
            verbs.insert(2, "deletecollection");
        }
        verbs
    }
}

fn texts(list: &'static [&'static str]) -> Vec<Cow<'static, str>> {
    list.iter().map(|text| Cow::Borrowed(*text)).collect()
}
