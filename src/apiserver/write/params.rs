//! How a write is to be done, as its query says: and what becomes of fields that nobody knows.

use crate::api::ApiError;
use crate::apiserver::webhooks::Asking;

/// What becomes of fields that the kind does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    /// One warning a field: upstream's default.
    #[default]
    Warn,
    /// 400.
    Strict,
}

/// What a write means to the owners of an object's fields (`metadata.managedFields`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracking {
    /// Recorded once the object has owners.
    #[default]
    Owned,
    /// Recorded from the creation on: the client names its field manager.
    Named,
    /// A controller's or a node's: its statuses are nobody's.
    System,
}

/// The options of a write, as the query has them.
#[derive(Clone, Debug, Default)]
pub struct WriteParams {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    /// The paths of keys that the body has twice; of an applied configuration, their lines.
    pub duplicates: Vec<String>,
    /// Who writes, for the ownership of fields.
    pub manager: String,
    pub tracking: Tracking,
    /// For patches: whether the writer takes fields from other managers.
    pub forced: Option<bool>,
    pub asking: Asking,
    /// What is applied, for errors: `(namespace/name; apps/v1, Kind=Deployment)`.
    pub applied: Option<String>,
}

impl WriteParams {
    /// Refuses unknown and duplicate fields, or adds a warning for each, or does nothing.
    pub(in crate::apiserver) fn report(
        &self,
        unknown: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if let Some(applied) = &self.applied {
            return self.report_applied(applied, unknown, warnings);
        }
        let unknown = unknown.iter().map(|field| format!("unknown field {field:?}"));
        let twice = self.duplicates.iter().map(|field| format!("duplicate field {field:?}"));
        let texts: Vec<String> = unknown.chain(twice).collect();
        match self.field_validation {
            FieldValidation::Ignore => Ok(()),
            _ if texts.is_empty() => Ok(()),
            FieldValidation::Warn => {
                warnings.extend(texts);
                Ok(())
            }
            FieldValidation::Strict => {
                let message = format!("strict decoding error: {}", texts.join(", "));
                Err(ApiError::bad_request(message))
            }
        }
    }

    /// A field that the schema does not have cannot be owned, so it is an error whatever was asked
    /// for (sigs.k8s.io/structured-merge-diff/typed); a key that is there twice is a matter of YAML.
    fn report_applied(
        &self,
        applied: &str,
        unknown: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if !self.duplicates.is_empty() && self.field_validation != FieldValidation::Ignore {
            let lines = self.duplicates.join("\n  ");
            let text = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {lines}");
            if self.field_validation == FieldValidation::Strict {
                return Err(ApiError::bad_request(format!("error strict decoding YAML: {text}")));
            }
            warnings.push(text);
        }
        let fields: Vec<String> =
            unknown.iter().map(|field| format!(".{field}: field not declared in schema")).collect();
        let text = match &fields[..] {
            [] => return Ok(()),
            [one] => one.clone(),
            several => format!("errors:\n  {}", several.join("\n  ")),
        };
        let message = format!("failed to create typed patch object {applied}: {text}");
        Err(ApiError::bad_request(message))
    }
}
