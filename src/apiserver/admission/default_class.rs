//! The class of what names none: a PersistentVolumeClaim gets the default StorageClass, the newest
//! of several; an Ingress the default IngressClass, of which there must be no second one (upstream's
//! DefaultStorageClass and DefaultIngressClass admission). An empty name is a name: it asks for no
//! class.

use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::kinds::{ingress, storage, storage_class};
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::read_error;
use crate::store::Key;

/// Marks the class of Ingresses that name none.
const INGRESS_MARK: &str = "ingressclass.kubernetes.io/is-default-class";
/// The same for StorageClasses.
const STORAGE_MARKS: &[&str] =
    &[storage_class::DEFAULT_ANNOTATION, storage_class::OLD_DEFAULT_ANNOTATION];

pub struct DefaultStorageClass;

impl Admitter for DefaultStorageClass {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let concerned = attributes.verb == Verb::Create
            && attributes.is("", "persistentvolumeclaims")
            && lacks(object, "storageClassName", storage::CLASS_ANNOTATION);
        if !concerned {
            return Ok(());
        }
        let mut classes =
            defaults(attributes, ["storage.k8s.io", "storageclasses"], STORAGE_MARKS)?;
        // The names differ, so that there is one newest.
        let age = |class: &Object| class.meta_text("creationTimestamp").to_string();
        classes.sort_by(|a, b| age(b).cmp(&age(a)).then_with(|| a.name().cmp(b.name())));
        if let Some(newest) = classes.first() {
            set(object, "storageClassName", newest.name());
            outcome.changed = true;
        }
        Ok(())
    }
}

pub struct DefaultIngressClass;

impl Admitter for DefaultIngressClass {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let concerned = attributes.verb == Verb::Create
            && attributes.is("networking.k8s.io", "ingresses")
            && lacks(object, "ingressClassName", ingress::CLASS_ANNOTATION);
        if !concerned {
            return Ok(());
        }
        let resource = ["networking.k8s.io", "ingressclasses"];
        match &defaults(attributes, resource, &[INGRESS_MARK])?[..] {
            [] => {}
            [one] => {
                set(object, "ingressClassName", one.name());
                outcome.changed = true;
            }
            several => {
                let count = several.len();
                let why = format!(
                    "Internal error occurred: {count} default IngressClasses were found, only 1 \
                     allowed"
                );
                let call = attributes.call;
                return Err(ApiError::forbidden(&call.info.gvr, object.name(), why));
            }
        }
        Ok(())
    }
}

/// Whether an object names its class neither in its spec nor as it was named before.
fn lacks(object: &Object, field: &str, annotation: &str) -> bool {
    object.at(&["spec", field]).is_none()
        && object.at(&["metadata", "annotations", annotation]).is_none()
}

fn set(object: &mut Object, field: &str, class: &str) {
    let spec = object.fields_mut().entry("spec").or_insert_with(|| json!({}));
    spec[field] = class.into();
}

/// The classes that are marked. Classes are few; only those that say so are read.
fn defaults(
    attributes: &Attributes,
    resource: [&str; 2],
    marks: &[&str],
) -> Result<Vec<Object>, ApiError> {
    const MARK: &[u8] = b"/is-default-class\":\"true\"";
    let page = attributes.server.store.list(&Key::new(&resource), None, 0, None);
    let entries = page.map_err(read_error)?.entries.into_iter();
    let mut found = Vec::new();
    for entry in entries.filter(|one| one.value.windows(MARK.len()).any(|part| part == MARK)) {
        let object = Raw(entry.value).object()?;
        let says =
            |mark: &&str| object.at(&["metadata", "annotations", mark]).and_then(Value::as_str);
        if marks.iter().any(|mark| says(mark) == Some("true")) {
            found.push(object);
        }
    }
    Ok(found)
}
