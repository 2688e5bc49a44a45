//! What a kind does to objects without their type: the functions that the pipeline calls, and their
//! bridge to [`Kind`].

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Kind;
use crate::api::error::ApiError;
use crate::api::field::{Errors, FieldError};
use crate::api::object::Object;
use crate::api::strict;
use crate::api::table::AnyColumn;
use crate::api::typegraph::{TypeId, graph};

/// What a write does; hooks differ a little by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    UpdateStatus,
    /// Of a Pod, through the subresource.
    UpdateEphemeralContainers,
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
    pub(super) typed: Arc<dyn Any + Send + Sync>,
    /// The stored object; none on create.
    pub(super) old: Option<Arc<dyn Any + Send + Sync>>,
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

    /// A draft as [`Rules::decode`] made it, of what [`Draft::kept`] kept of it.
    fn again(&self, kept: &Draft) -> Draft {
        kept.clone()
    }

    /// The defaults again, after mutating admission.
    fn redefault(&self, draft: Draft) -> Result<Draft, ApiError>;

    /// False for stored bytes that [`Rules::complete`] would change.
    fn is_complete(&self, _raw: &[u8]) -> bool {
        true
    }

    /// A stored object with what reads add to it: defaults that came after it was stored.
    fn complete(&self, object: Object) -> Object {
        object
    }

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

impl Draft {
    /// What it takes to make the draft again: of kinds with a type, that is the typed half.
    pub fn kept(&self) -> Draft {
        if self.typed.is::<()>() {
            return self.clone();
        }
        Draft {
            object: Object::default(),
            unknown: Vec::new(),
            typed: self.typed.clone(),
            old: self.old.clone(),
        }
    }

    /// A draft of a kind without a type.
    pub fn untyped(object: Object, unknown: Vec<String>, old: Option<&Object>) -> Draft {
        let old = old.map(|old| Arc::new(old.clone()) as Arc<dyn Any + Send + Sync>);
        Draft { object, unknown, typed: Arc::new(()), old }
    }

    /// The stored object of a draft of a kind without a type.
    pub fn untyped_old(&self) -> Option<&Object> {
        self.old.as_deref().and_then(|old| old.downcast_ref())
    }

    /// The same draft of a kind without a type, with another object.
    pub fn with_object(self, object: Object) -> Draft {
        Draft { object, ..self }
    }
}

/// [`Rules`] of a type.
pub(super) struct Typed<T>(pub(super) PhantomData<fn() -> T>);

impl<T: Kind> Rules for Typed<T> {
    fn decode(
        &self,
        mut value: Value,
        stored: Option<&Object>,
        operation: Operation,
    ) -> Result<Draft, ApiError> {
        let mut old: Option<T> = stored.map(Object::typed::<T>).transpose()?;
        let same_spec = match (operation, stored, &mut old) {
            (Operation::UpdateStatus, Some(stored), Some(old)) => {
                take_same_spec(&mut value, stored, old)
            }
            _ => None,
        };
        let (mut object, unknown) = strict::decode_typed::<T>(value, type_of::<T>)?;
        if let (Some((spec, _)), Some(empty)) = (&same_spec, object.pod_spec()) {
            *empty = Some(spec.clone());
        }
        match (&old, operation) {
            (None, _) => object.prepare_create(),
            (Some(old), Operation::Update) => object.prepare_update(old),
            (Some(_), _) => {}
        }
        object.set_defaults(old.as_ref());
        Ok(Draft {
            object: render(&mut object, same_spec),
            unknown,
            typed: Arc::new(object),
            old: old.map(|old| Arc::new(old) as Arc<dyn Any + Send + Sync>),
        })
    }

    fn again(&self, kept: &Draft) -> Draft {
        let object = Object::from_typed(typed_half::<T>(&*kept.typed));
        Draft { object, ..kept.clone() }
    }

    fn redefault(&self, draft: Draft) -> Result<Draft, ApiError> {
        let old = draft.old.as_deref().map(typed_half);
        // Whoever admitted the object may have put nulls in.
        let Ok(mut object) = draft.object.typed::<T>() else {
            let value = draft.object.into_value();
            let mut object = strict::decode_typed::<T>(value, type_of::<T>)?.0;
            object.set_defaults(old);
            let (rendered, typed) = (Object::from_typed(&object), Arc::new(object));
            return Ok(Draft { object: rendered, typed, ..draft });
        };
        let before = object.clone();
        object.set_defaults(old);
        // To compare costs a fraction of what rendering does.
        let rendered = if object == before { draft.object } else { Object::from_typed(&object) };
        Ok(Draft { object: rendered, typed: Arc::new(object), ..draft })
    }

    fn validate(&self, draft: &Draft, operation: Operation) -> Vec<FieldError> {
        let object: &T = typed_half(&*draft.typed);
        let old: Option<&T> = draft.old.as_deref().map(typed_half);
        let mut errors = Errors::default();
        match (old, operation) {
            (Some(old), Operation::UpdateStatus) => object.validate_status_update(old, &mut errors),
            (old, _) => {
                object.validate(&mut errors);
                object.check_fields(&draft.object, &mut errors, &mut Vec::new());
                match old {
                    Some(old) if operation == Operation::UpdateEphemeralContainers => {
                        object.validate_ephemeral_containers_update(old, &mut errors);
                    }
                    Some(old) => object.validate_update(old, &mut errors),
                    None => object.validate_create(&mut errors),
                }
            }
        }
        errors.into_vec()
    }

    fn warnings(&self, draft: &Draft) -> Vec<String> {
        let object: &T = typed_half(&*draft.typed);
        let mut warnings = Vec::new();
        object.check_fields(&draft.object, &mut Errors::default(), &mut warnings);
        warnings.append(&mut object.warnings());
        warnings
    }

    fn columns(&self) -> Vec<AnyColumn<'_>> {
        T::columns().to_vec()
    }

    fn row(&self, raw: &[u8], now: Timestamp) -> Result<Vec<Value>, ApiError> {
        Ok(decode_stored::<T>(raw)?.row(now))
    }

    fn fields(&self, raw: &[u8], fields: &[&str]) -> Result<Vec<String>, ApiError> {
        let object = T::selected(raw).map_err(unreadable)?;
        let meta = object.metadata();
        let value = |field: &&str| match *field {
            "metadata.name" => meta.name.clone().unwrap_or_default(),
            "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
            other => object.field(other),
        };
        Ok(fields.iter().map(value).collect())
    }
}

/// Takes a Pod's spec out of a value if it is the stored one, decoded and as it stands there.
fn take_same_spec<T: Kind>(
    value: &mut Value,
    stored: &Object,
    old: &mut T,
) -> Option<(PodSpec, Value)> {
    let spec = old.pod_spec()?.as_ref()?;
    let fields = value.as_object_mut()?;
    if fields.get("spec") != stored.fields().get("spec") {
        return None;
    }
    Some((spec.clone(), fields.remove("spec")?))
}

/// The erased half, with a spec that [`take_same_spec`] took as it was, unless the defaults changed
/// it.
fn render<T: Kind>(object: &mut T, same_spec: Option<(PodSpec, Value)>) -> Object {
    let Some((before, rendered)) = same_spec else { return Object::from_typed(object) };
    let spec =
        object.pod_spec().filter(|spec| spec.as_ref() == Some(&before)).and_then(Option::take);
    let Some(spec) = spec else { return Object::from_typed(object) };
    let mut erased = Object::from_typed(object);
    erased.set("spec", rendered);
    if let Some(empty) = object.pod_spec() {
        *empty = Some(spec);
    }
    erased
}

/// The type of a kind in the type graph.
pub(super) fn type_of<T: k8s_openapi::Resource>() -> Option<TypeId> {
    graph().kind(T::GROUP, T::VERSION, T::KIND)
}

/// The typed half of a draft of this kind.
fn typed_half<T: Kind>(half: &(dyn Any + Send + Sync)) -> &T {
    half.downcast_ref().unwrap_or_else(|| unreachable!("a draft of another kind than {}", T::KIND))
}

pub(super) fn decode_stored<T: DeserializeOwned>(raw: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(raw).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> ApiError {
    ApiError::internal(format!("a stored object cannot be read: {error}"))
}
