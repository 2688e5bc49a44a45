//! Rows whose objects are stored in the form of another row: the versions of a custom resource, and
//! the shapes of a built-in kind (Events of both groups, both versions of HorizontalPodAutoscalers).
//!
//! All rows of one stored form share its objects, its revisions and its watches. What is read is
//! made of the stored form; what is written becomes it.

use super::Gvr;
use crate::api::object::Object;

/// The form that a row's objects are stored in.
pub struct StoredAs {
    /// Where they are stored, and with which `apiVersion`.
    pub gvr: Gvr,
    /// How the two forms differ; `None` if only in their `apiVersion`.
    pub shape: Option<Shape>,
}

/// What is different in two forms of an object, `apiVersion` aside. Both functions are total: what
/// they do not understand stays as it is.
#[derive(Clone, Copy)]
pub struct Shape {
    /// From the row's own form.
    pub to_stored: fn(&mut Object),
    /// Into the row's own form.
    pub from_stored: fn(&mut Object),
}

impl StoredAs {
    /// The stored form of an object of the row.
    pub fn stored(&self, mut object: Object) -> Object {
        if let Some(shape) = self.shape {
            (shape.to_stored)(&mut object);
        }
        object.set("apiVersion", self.gvr.api_version().into());
        object
    }

    /// A stored object in the form of a row that has this `apiVersion`.
    pub fn shown(&self, mut object: Object, api_version: String) -> Object {
        if let Some(shape) = self.shape {
            (shape.from_stored)(&mut object);
        }
        object.set("apiVersion", api_version.into());
        object
    }
}
