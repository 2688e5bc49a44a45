//! Label selectors and field selectors: which objects a client asks for.
//!
//! Owns their text syntax (k8s.io/apimachinery/pkg/labels and pkg/fields) and the matching. Knows
//! no kinds: which fields an object offers to a field selector is the kind's business.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::names;

mod field;
mod lexer;

pub use field::FieldSelector;

/// Most requirements and values that one selector may hold together.
pub const MAX_TERMS: usize = 10_000;

/// Why a selector cannot be used; answered with 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Syntax { found: String, expected: &'static str },
    #[error("unable to parse requirement: key: Invalid value: \"{key}\": {why}")]
    Key { key: String, why: String },
    #[error(
        "unable to parse requirement: values[{index}][{key}]: Invalid value: \"{value}\": {why}"
    )]
    Value { key: String, index: usize, value: String, why: String },
    #[error("unable to parse requirement: key \"{key}\": {why}")]
    Values { key: String, why: &'static str },
    #[error("\"{0}\" is not a valid label selector operator")]
    Operator(String),
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Field { selector: String, term: String },
    #[error("invalid selector: more than {MAX_TERMS} terms")]
    TooManyTerms,
}

/// What one requirement demands of its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One term of a label selector. `values` is sorted and has no duplicates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// A conjunction of requirements on labels. The default selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// The selector that no object matches, which is what an absent typed selector means.
    pub fn nothing() -> Selector {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the text form, as in `labelSelector=app in (a,b),!canary`. Empty selects everything.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        Selector::from_requirements(lexer::parse(text)?)
    }

    /// Equality on every pair of a map, such as a Service's `spec.selector`.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Result<Selector, SelectorError> {
        let requirements = labels.iter().map(|(key, value)| {
            Requirement::new(key.clone(), Operator::Equals, vec![value.clone()])
        });
        Selector::from_requirements(requirements.collect::<Result<_, _>>()?)
    }

    /// A selector out of an object's spec. Absent selects nothing, empty selects everything.
    pub fn from_typed(typed: Option<&meta::LabelSelector>) -> Result<Selector, SelectorError> {
        match typed {
            None => Ok(Selector::nothing()),
            Some(typed) => Selector::try_from(typed),
        }
    }

    fn from_requirements(mut requirements: Vec<Requirement>) -> Result<Selector, SelectorError> {
        let terms: usize = requirements.iter().map(|one| 1 + one.values.len()).sum();
        if terms > MAX_TERMS {
            return Err(SelectorError::TooManyTerms);
        }
        requirements.sort();
        Ok(Selector { requirements, nothing: false })
    }

    /// The same selector with more requirements; one that selects nothing stays that.
    pub fn and(&self, more: Vec<Requirement>) -> Selector {
        let mut selector = self.clone();
        selector.requirements.extend(more);
        selector.requirements.sort();
        selector.requirements.dedup();
        selector
    }

    /// True if there is nothing to check: every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The terms, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Like `matches`, for labels held in any other form; an object without labels answers `None`.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.accepts(label(&one.key)))
    }

    /// Texts that every matching object has among the keys and values of its labels.
    pub fn needed_texts(&self) -> impl Iterator<Item = &str> {
        self.requirements.iter().filter_map(|one| match (one.operator, &one.values[..]) {
            (Operator::Equals | Operator::In, [value]) if !value.is_empty() => Some(&**value),
            (
                Operator::Equals
                | Operator::In
                | Operator::Exists
                | Operator::GreaterThan
                | Operator::LessThan,
                _,
            ) => Some(&*one.key),
            (Operator::NotEquals | Operator::NotIn | Operator::DoesNotExist, _) => None,
        })
    }

    /// The labels that every matching object has, with their values; for indexes.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pinned = self.requirements.iter().filter(|one| one.pins_one_value());
        pinned.filter_map(|one| Some((one.key.as_str(), one.values.first()?.as_str())))
    }

    /// The value that the label must have, if the selector pins one; for indexes.
    pub fn requires(&self, key: &str) -> Option<&str> {
        let pinned = self.requirements.iter().find(|one| one.key == key && one.pins_one_value())?;
        pinned.values.first().map(String::as_str)
    }
}

impl TryFrom<&meta::LabelSelector> for Selector {
    type Error = SelectorError;

    fn try_from(typed: &meta::LabelSelector) -> Result<Selector, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in typed.match_labels.iter().flatten() {
            let equals = Requirement::new(key.clone(), Operator::Equals, vec![value.clone()])?;
            requirements.push(equals);
        }
        for one in typed.match_expressions.iter().flatten() {
            let operator = match one.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = one.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(one.key.clone(), operator, values)?);
        }
        Selector::from_requirements(requirements)
    }
}

impl Requirement {
    /// Checks key, number of values and each value as upstream's `NewRequirement` does.
    pub fn new(
        key: String,
        operator: Operator,
        mut values: Vec<String>,
    ) -> Result<Requirement, SelectorError> {
        use Operator::*;
        let wrong = names::is_qualified_name(&key);
        if !wrong.is_empty() {
            return Err(SelectorError::Key { key, why: wrong.join("; ") });
        }
        let problem = match operator {
            In | NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Equals | NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Exists | DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            GreaterThan | LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            GreaterThan | LessThan if values[0].parse::<i64>().is_err() => {
                Some("for 'Gt', 'Lt' operators, the value must be an integer")
            }
            _ => None,
        };
        if let Some(why) = problem {
            return Err(SelectorError::Values { key, why });
        }
        for (index, value) in values.iter().enumerate() {
            let wrong = names::is_label_value(value);
            if !wrong.is_empty() {
                let (value, why) = (value.clone(), wrong.join("; "));
                return Err(SelectorError::Value { key, index, value, why });
            }
        }
        values.sort();
        values.dedup();
        Ok(Requirement { key, operator, values })
    }

    fn pins_one_value(&self) -> bool {
        matches!(self.operator, Operator::Equals | Operator::In) && self.values.len() == 1
    }

    fn has(&self, value: &str) -> bool {
        self.values.binary_search_by(|own| own.as_str().cmp(value)).is_ok()
    }

    fn accepts(&self, label: Option<&str>) -> bool {
        match self.operator {
            Operator::Equals | Operator::In => label.is_some_and(|value| self.has(value)),
            Operator::NotEquals | Operator::NotIn => label.is_none_or(|value| !self.has(value)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.compare(label, |label, bound| label > bound),
            Operator::LessThan => self.compare(label, |label, bound| label < bound),
        }
    }

    fn compare(&self, label: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
        match (number(label), number(self.values.first().map(String::as_str))) {
            (Some(label), Some(bound)) => holds(label, bound),
            _ => false,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = self.values.join(",");
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for Selector {
    /// Canonical text: terms sorted by key, values sorted. Empty for everything and for nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{one}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
