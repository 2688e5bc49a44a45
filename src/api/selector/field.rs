//! Field selectors: `metadata.name=x,status.phase!=Failed`, conjunctions only.

use std::fmt;

use super::{MAX_TERMS, SelectorError};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

/// A conjunction of equalities and inequalities on named fields. The default selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Reads the text form. In values a backslash escapes `\`, `,` and `=`. Which fields a kind
    /// supports is for the caller to check, with `fields`.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            if terms.len() >= MAX_TERMS {
                return Err(SelectorError::TooManyTerms);
            }
            let bad = || SelectorError::Field { selector: text.to_owned(), term: part.to_owned() };
            let (field, raw, equal) = split_term(part).ok_or_else(bad)?;
            let value = unescape(raw).ok_or_else(bad)?;
            terms.push(Term { field: field.to_owned(), value, equal });
        }
        Ok(FieldSelector { terms })
    }

    /// True if there is nothing to check: every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Every field that the selector names, in its order, possibly more than once.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.field.as_str())
    }

    /// The value that `field` must have, if the selector pins it; for indexes and single-object
    /// watches.
    pub fn requires(&self, field: &str) -> Option<&str> {
        let pinned = self.terms.iter().find(|term| term.equal && term.field == field)?;
        Some(&pinned.value)
    }

    /// True if every term holds; a field that the object does not have counts as empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        let holds = |term: &Term| (field(&term.field).unwrap_or("") == term.value) == term.equal;
        self.terms.iter().all(holds)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let sign = if term.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{sign}", term.field)?;
            for c in term.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c: char| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

fn split_term(part: &str) -> Option<(&str, &str, bool)> {
    let at = part.find(['=', '!'])?;
    let (field, rest) = part.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, value, false));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, value, true))
}

/// Takes the backslashes away; none if one escapes another character or an `=` stands bare.
fn unescape(raw: &str) -> Option<String> {
    let mut value = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            '=' => return None,
            other => value.push(other),
        }
    }
    Some(value)
}
