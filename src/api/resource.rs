//! What a kind is: one trait for the typed rules ([`Kind`]), one table row without the type
//! ([`KindInfo`]). The pipeline works on rows; only a kind's own file knows its fields.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;
use super::field::{Errors, FieldError};
use super::object::Object;
use super::table::{AnyColumn, Column, NAME_AND_AGE};

mod review;

pub use review::Review;

/// Group, version and plural resource, and whether objects live in namespaces: all that is needed
/// to build a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    /// The plural name, as in the URL.
    pub resource: Cow<'static, str>,
    pub namespaced: bool,
}

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

    /// Rules about change (immutable fields), after [`Kind::validate`].
    fn validate_update(&self, _old: &Self, _errors: &mut Errors) {}

    /// Rules about a change of `/status`.
    fn validate_status_update(&self, _old: &Self, _errors: &mut Errors) {}

    /// Fields that are accepted and stored but that Wasm pods cannot honour: each text goes to the
    /// user as a `Warning:` header.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

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

    /// A secondary index of caches: Pods give their node's name here; `None` is not indexed.
    fn index(&self) -> Option<String> {
        None
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
    /// The typed rules.
    pub rules: Box<dyn Rules>,
}

/// Registers a kind's schema and what it depends on, and answers with a reference to it.
pub type AddSchema = Arc<dyn Fn(&mut schemars::SchemaGenerator) -> schemars::Schema + Send + Sync>;

/// What a CustomResourceDefinition says of its kind that built-in kinds have no use for.
pub struct CustomParts {
    /// The `apiVersion` that objects are stored with.
    pub stored_api_version: String,
    /// The version's schema, as OpenAPI with Kubernetes' extensions.
    pub schema: Value,
    pub scale: Option<ScalePaths>,
    /// Told with every answer, for versions that are on their way out.
    pub deprecation: Option<String>,
    /// Being deleted: nothing is created any more.
    pub terminating: AtomicBool,
}

/// Where a custom resource keeps what its `/scale` shows, as field names.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    /// A selector as text.
    pub selector: Option<Vec<String>>,
}

/// What a write does; hooks differ a little by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    UpdateStatus,
}

/// An object on its way into the store: erased, for the pipeline, and typed beside it, for the
/// kind's rules, so that each is decoded once.
#[derive(Clone)]
pub struct Draft {
    /// After any change but that of metadata which the system sets, the typed half is made anew by
    /// [`Rules::redefault`].
    pub object: Object,
    /// Fields that the type does not know, as paths; they are gone from the object.
    pub unknown: Vec<String>,
    typed: Arc<dyn Any + Send + Sync>,
    /// The stored object; none on create.
    old: Option<Arc<dyn Any + Send + Sync>>,
}

/// [`Kind`]'s functions on erased objects.
pub trait Rules: Send + Sync + 'static {
    /// Parses, runs `prepare_*`, sets defaults, and renders again. `old` is the stored object (none
    /// on create).
    fn decode(
        &self,
        value: Value,
        old: Option<&Object>,
        operation: Operation,
    ) -> Result<Draft, ApiError>;

    /// The defaults again, after mutating admission.
    fn redefault(&self, draft: Draft) -> Result<Draft, ApiError>;

    /// All of the kind's errors.
    fn validate(&self, draft: &Draft, operation: Operation) -> Vec<FieldError>;

    /// What the user is told of an object that is accepted.
    fn warnings(&self, draft: &Draft) -> Vec<String>;

    fn columns(&self) -> Vec<AnyColumn<'_>>;

    /// The row of a stored object's bytes, with its metadata's JSON left to the caller.
    fn row(&self, raw: &[u8], now: Timestamp) -> Result<Vec<Value>, ApiError>;

    /// The values of the asked selectable fields of stored bytes, in order.
    fn fields(&self, raw: &[u8], fields: &[&str]) -> Result<Vec<String>, ApiError>;
}

impl Gvr {
    pub const fn new(
        group: &'static str,
        version: &'static str,
        resource: &'static str,
        namespaced: bool,
    ) -> Gvr {
        Gvr {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            resource: Cow::Borrowed(resource),
            namespaced,
        }
    }

    /// The resource of a type.
    pub const fn of<T: Kind>() -> Gvr {
        Gvr::new(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT, <T::Scope as Scoped>::NAMESPACED)
    }

    /// `deployments.apps`, or `pods`: as error messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `/api/v1/namespaces/n/pods/x/status` and its like, with namespace and name escaped: they may
    /// be what a person typed.
    pub fn path(
        &self,
        namespace: Option<&str>,
        name: Option<&str>,
        subresource: Option<&str>,
    ) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str("/namespaces/");
            push_segment(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.resource);
        if let Some(name) = name {
            path.push('/');
            push_segment(&mut path, name);
        }
        if let Some(subresource) = subresource {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

/// Appends a path segment; what is not a `pchar` of RFC 3986 is percent-encoded.
fn push_segment(path: &mut String, segment: &str) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

impl fmt::Display for Gvr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.qualified())
    }
}

/// Tells a type's scope to generic code.
pub trait Scoped {
    const NAMESPACED: bool;
}

impl Scoped for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

impl Scoped for k8s_openapi::NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl KindInfo {
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
            schema: Arc::new(|generator: &mut schemars::SchemaGenerator| {
                generator.subschema_for::<T>()
            }),
            custom: None,
            rules: Box::new(Typed::<T>(PhantomData)),
        }
    }

    /// The verbs that discovery lists.
    pub fn verbs(&self) -> Vec<&'static str> {
        if self.meta.review {
            return vec!["create"];
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

impl Draft {
    /// A draft of a kind without a type.
    pub fn untyped(object: Object, unknown: Vec<String>, old: Option<&Object>) -> Draft {
        let old = old.map(|old| Arc::new(old.clone()) as Arc<dyn Any + Send + Sync>);
        Draft { object, unknown, typed: Arc::new(()), old }
    }

    /// The same draft of a kind without a type, with another object.
    pub fn with_object(self, object: Object) -> Draft {
        Draft { object, ..self }
    }
}

/// [`Rules`] of a type.
struct Typed<T>(PhantomData<fn() -> T>);

impl<T: Kind> Rules for Typed<T> {
    fn decode(
        &self,
        value: Value,
        old: Option<&Object>,
        operation: Operation,
    ) -> Result<Draft, ApiError> {
        let (mut object, unknown) = super::strict::decode_typed::<T>(value)?;
        let old = old.map(Object::typed::<T>).transpose()?;
        match (&old, operation) {
            (None, _) => object.prepare_create(),
            (Some(old), Operation::Update) => object.prepare_update(old),
            (Some(_), _) => {}
        }
        object.set_defaults(old.as_ref());
        Ok(Draft {
            object: Object::from_typed(&object),
            unknown,
            typed: Arc::new(object),
            old: old.map(|old| Arc::new(old) as Arc<dyn Any + Send + Sync>),
        })
    }

    fn redefault(&self, draft: Draft) -> Result<Draft, ApiError> {
        let mut object = draft.object.typed::<T>()?;
        object.set_defaults(draft.old.as_deref().map(typed_half));
        Ok(Draft { object: Object::from_typed(&object), typed: Arc::new(object), ..draft })
    }

    fn validate(&self, draft: &Draft, operation: Operation) -> Vec<FieldError> {
        let object: &T = typed_half(&*draft.typed);
        let old: Option<&T> = draft.old.as_deref().map(typed_half);
        let mut errors = Errors::default();
        match (old, operation) {
            (Some(old), Operation::UpdateStatus) => object.validate_status_update(old, &mut errors),
            (old, _) => {
                object.validate(&mut errors);
                if let Some(old) = old {
                    object.validate_update(old, &mut errors);
                }
            }
        }
        errors.into_vec()
    }

    fn warnings(&self, draft: &Draft) -> Vec<String> {
        typed_half::<T>(&*draft.typed).warnings()
    }

    fn columns(&self) -> Vec<AnyColumn<'_>> {
        T::columns().to_vec()
    }

    fn row(&self, raw: &[u8], now: Timestamp) -> Result<Vec<Value>, ApiError> {
        Ok(decode_stored::<T>(raw)?.row(now))
    }

    fn fields(&self, raw: &[u8], fields: &[&str]) -> Result<Vec<String>, ApiError> {
        let object = decode_stored::<T>(raw)?;
        let meta = object.metadata();
        let value = |field: &&str| match *field {
            "metadata.name" => meta.name.clone().unwrap_or_default(),
            "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
            other => object.field(other),
        };
        Ok(fields.iter().map(value).collect())
    }
}

/// The typed half of a draft of this kind.
fn typed_half<T: Kind>(half: &(dyn Any + Send + Sync)) -> &T {
    half.downcast_ref().unwrap_or_else(|| unreachable!("a draft of another kind than {}", T::KIND))
}

fn decode_stored<T: DeserializeOwned>(raw: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(raw)
        .map_err(|e| ApiError::internal(format!("a stored object cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_hold_names_as_one_segment() {
        let pods = Gvr::new("", "v1", "pods", true);
        assert_eq!(
            pods.path(Some("n"), Some("a/../b?x=1#%ä"), Some("log")),
            "/api/v1/namespaces/n/pods/a%2F..%2Fb%3Fx=1%23%25%C3%A4/log"
        );
        let roles = Gvr::new("rbac", "v1", "roles", false);
        assert_eq!(
            roles.path(Some("n"), Some("system:node"), None),
            "/apis/rbac/v1/roles/system:node"
        );
        assert_eq!(roles.path(None, None, None), "/apis/rbac/v1/roles");
    }
}
