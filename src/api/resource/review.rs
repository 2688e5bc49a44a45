//! Kinds that are questions (upstream's virtual resources): created only, answered with their
//! status, never stored. What answers them is in the server; here are their types and their rules.

use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::rules::type_of;
use super::{
    DEFAULT_META, Draft, Gvr, KindInfo, KindMeta, Operation, Rules, Scoped, decode_stored,
};
use crate::api::error::ApiError;
use crate::api::field::{Errors, FieldError};
use crate::api::object::Object;
use crate::api::table::{self, AnyColumn, NAME_AND_AGE};

/// The rules of such a kind. It has no list, so it is no [`super::Kind`].
pub trait Review:
    k8s_openapi::Resource<Scope: Scoped>
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + JsonSchema
    + Send
    + Sync
    + 'static
{
    const SINGULAR: &'static str;

    /// What is wrong with the question.
    fn validate(&self, _errors: &mut Errors) {}
}

impl KindInfo {
    /// The row of a question.
    pub fn review<T: Review>() -> KindInfo {
        let namespaced = <T::Scope as Scoped>::NAMESPACED;
        KindInfo {
            gvr: Gvr::new(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT, namespaced),
            kind: T::KIND.into(),
            list_kind: "".into(),
            singular: T::SINGULAR.into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            selectable: Vec::new(),
            meta: KindMeta {
                singular: T::SINGULAR,
                delete_collection: false,
                review: true,
                ..DEFAULT_META
            },
            schema: Arc::new(|generator: &mut schemars::SchemaGenerator| {
                generator.subschema_for::<T>()
            }),
            custom: None,
            stored: None,
            rules: Box::new(Asked::<T>(PhantomData)),
        }
    }
}

/// [`Rules`] of a question.
struct Asked<T>(PhantomData<fn() -> T>);

impl<T: Review> Rules for Asked<T> {
    fn decode(&self, value: Value, _: Option<&Object>, _: Operation) -> Result<Draft, ApiError> {
        let (typed, unknown) = crate::api::strict::decode_typed::<T>(value, type_of::<T>)?;
        let object = serde_json::to_value(&typed).map_err(ApiError::internal)?;
        let object = Object::from_value(object)?;
        Ok(Draft { object, unknown, typed: Arc::new(typed), old: None })
    }

    fn redefault(&self, draft: Draft) -> Result<Draft, ApiError> {
        Ok(draft)
    }

    fn validate(&self, draft: &Draft, _: Operation) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if let Some(typed) = draft.typed.downcast_ref::<T>() {
            typed.validate(&mut errors);
        }
        errors.into_vec()
    }

    fn warnings(&self, _: &Draft) -> Vec<String> {
        Vec::new()
    }

    fn columns(&self) -> Vec<AnyColumn<'_>> {
        NAME_AND_AGE.to_vec()
    }

    fn row(&self, raw: &[u8], now: Timestamp) -> Result<Vec<Value>, ApiError> {
        let object = decode_stored::<T>(raw)?;
        Ok(vec![table::name(object.metadata()), table::age(object.metadata(), now)])
    }

    /// Nothing is listed, so nothing is selected.
    fn fields(&self, _: &[u8], fields: &[&str]) -> Result<Vec<String>, ApiError> {
        Ok(vec![String::new(); fields.len()])
    }
}
