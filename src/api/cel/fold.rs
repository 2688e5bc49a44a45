//! The macros over lists and maps.

use std::collections::BTreeMap;

use super::ast::{Fold, FoldKind};
use super::eval::{Error, Evaluation, no_overload};
use super::lib::lists::sorted_by;
use super::value::{Key, Value};

/// What one round costs beside its expressions, in cel-go's expansion of the macro: names and calls
/// of its own, and a list or map of one element.
fn round(kind: FoldKind) -> u64 {
    match kind {
        FoldKind::All => 3,
        FoldKind::Exists => 4,
        FoldKind::ExistsOne => 2,
        FoldKind::List | FoldKind::SortBy => 12,
        FoldKind::MapValues | FoldKind::MapEntries => 3,
    }
}

/// What is being made of the elements.
enum Made {
    /// The answer, unless an element decides, and the first error, which one that decides hides.
    Quantified(bool, Option<Error>),
    Count(u64),
    List(Vec<Value>),
    Sorted(Vec<Value>, Vec<Value>),
    Map(BTreeMap<Key, Value>),
}

impl Evaluation<'_> {
    pub(super) fn fold(&mut self, fold: &Fold) -> Result<Value, Error> {
        let range = self.eval(&fold.range)?;
        let mut made = match fold.kind {
            FoldKind::All => Made::Quantified(true, None),
            FoldKind::Exists => Made::Quantified(false, None),
            FoldKind::ExistsOne => Made::Count(0),
            FoldKind::List => Made::List(Vec::new()),
            FoldKind::SortBy => Made::Sorted(Vec::new(), Vec::new()),
            FoldKind::MapValues | FoldKind::MapEntries => Made::Map(BTreeMap::new()),
        };
        match &range {
            Value::List(list) => {
                for (index, item) in list.items().iter().enumerate() {
                    let index = Value::Int(index as i64);
                    if let Some(result) = self.element(fold, &index, item, item, &mut made)? {
                        return Ok(result);
                    }
                }
            }
            Value::Map(map) if map.object_type().is_none() => {
                for (key, value) in map.entries() {
                    let key = key.value();
                    if let Some(result) = self.element(fold, &key, value, &key, &mut made)? {
                        return Ok(result);
                    }
                }
            }
            _ => return Err(no_overload()),
        }
        match made {
            Made::Quantified(_, Some(error)) => Err(error),
            Made::Quantified(answer, None) => Ok(Value::Bool(answer)),
            Made::Count(count) => Ok(Value::Bool(count == 1)),
            Made::List(items) => Ok(Value::list(items)),
            Made::Sorted(items, keys) => sorted_by(items, &keys, self.meter).map(Value::list),
            Made::Map(entries) => Ok(Value::map(entries)),
        }
    }

    /// One round; with a result, there is no other.
    fn element(
        &mut self,
        fold: &Fold,
        key: &Value,
        value: &Value,
        only: &Value,
        made: &mut Made,
    ) -> Result<Option<Value>, Error> {
        self.meter.charge(round(fold.kind))?;
        let outside = self.locals.len();
        match &fold.vars[..] {
            [one] => self.locals.push((one.clone(), only.clone())),
            [first, second] => {
                self.locals.push((first.clone(), key.clone()));
                self.locals.push((second.clone(), value.clone()));
            }
            _ => return Err(no_overload()),
        }
        let result = self.round(fold, key, only, made);
        self.locals.truncate(outside);
        result
    }

    fn round(
        &mut self,
        fold: &Fold,
        key: &Value,
        only: &Value,
        made: &mut Made,
    ) -> Result<Option<Value>, Error> {
        if let Some(filter) = &fold.filter {
            match self.eval(filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return Ok(None),
                _ => return Err(no_overload()),
            }
        }
        let body = self.eval(&fold.body);
        match made {
            Made::Quantified(answer, failed) => match body {
                Ok(Value::Bool(value)) if value == *answer => {}
                Ok(Value::Bool(value)) => return Ok(Some(Value::Bool(value))),
                Ok(_) => {
                    failed.get_or_insert(no_overload());
                }
                Err(error) if error.is_cost() => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            },
            Made::Count(count) => match body? {
                Value::Bool(value) => *count += u64::from(value),
                _ => return Err(no_overload()),
            },
            Made::List(items) => items.push(body?),
            Made::Sorted(items, keys) => {
                items.push(only.clone());
                keys.push(body?);
            }
            Made::Map(entries) if fold.kind == FoldKind::MapValues => {
                let key = Key::of(key).ok_or_else(no_overload)?;
                entries.insert(key, body?);
            }
            Made::Map(entries) => {
                let Value::Map(map) = body? else { return Err(no_overload()) };
                self.meter.charge(map.entries().len() as u64)?;
                for (key, value) in map.entries() {
                    if entries.insert(key.clone(), value.clone()).is_some() {
                        return Err(Error::new(format!(
                            "insert failed: key {key:?} already exists"
                        )));
                    }
                }
            }
        }
        Ok(None)
    }
}
