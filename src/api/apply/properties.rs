//! Properties of the ways to change an object, over objects of real kinds.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::api::patch::{merge_patch, strategic_merge};
use crate::api::samples::{Dice, GroupKind, KINDS};

/// Two objects that share no field but those that tell elements apart.
fn halves(dice: &mut Dice, shape: &Shape, value: &Value) -> (Value, Value) {
    match (shape.form(), value) {
        (shape::Form::Object, Value::Object(map)) => {
            let (mut left, mut right) = (Map::new(), Map::new());
            for (name, value) in map {
                let shape = shape.field(name).0;
                let leaf = !matches!(shape.form(), shape::Form::Object | shape::Form::Keyed(_))
                    || !value.is_object() && !value.is_array();
                if leaf {
                    let side = if dice.below(2) == 0 { &mut left } else { &mut right };
                    side.insert(name.clone(), value.clone());
                    continue;
                }
                let (one, other) = halves(dice, &shape, value);
                left.insert(name.clone(), one);
                right.insert(name.clone(), other);
            }
            (Value::Object(left), Value::Object(right))
        }
        (shape::Form::Keyed(keys), Value::Array(items)) => {
            let element = shape.element();
            let (mut left, mut right) = (Vec::new(), Vec::new());
            for item in items {
                let (mut one, mut other) = halves(dice, &element, item);
                for key in keys.iter().filter(|key| item.get(*key).is_some()) {
                    one[key] = item[key].clone();
                    other[key] = item[key].clone();
                }
                left.push(one);
                right.push(other);
            }
            (Value::Array(left), Value::Array(right))
        }
        _ => (value.clone(), value.clone()),
    }
}

/// An object as the server has it, with its owners.
struct Live {
    kind: GroupKind,
    object: Option<Object>,
}

impl Live {
    fn new(kind: GroupKind) -> Live {
        Live { kind, object: None }
    }

    fn shape(&self) -> Shape<'static> {
        Shape::of_kind(self.kind.0, self.kind.1, self.kind.2)
    }

    fn apply(&mut self, manager: &str, config: &Value, force: bool) -> Result<(), ApplyError> {
        let (group, version, _) = self.kind;
        let who = Who { manager, group, version, subresource: "", time: "2026-01-01T00:00:00Z" };
        let config = Object::from_value(config.clone()).expect("an object");
        let live = self.object.as_ref();
        let versions = OneVersion(self.shape());
        let applied = apply(&versions, live, &config, Part::WithoutStatus, who, force)?;
        let mut object = applied.object;
        match applied.managers.write() {
            Value::Array(entries) if entries.is_empty() => {
                object.meta_mut().remove("managedFields");
            }
            entries => object.set_meta("managedFields", entries),
        }
        self.object = Some(object);
        Ok(())
    }

    fn plain(&self) -> Value {
        super::plain(self.object.as_ref().expect("applied"))
    }

    fn owned(&self, manager: &str) -> Vec<String> {
        let fields = self.object.as_ref().and_then(|object| object.meta().get("managedFields"));
        let managers = fields.and_then(Managers::read).unwrap_or_default();
        let found = managers.0.into_iter().find(|(one, _)| one.name == manager);
        found.map(|(_, owned)| owned.fields.paths()).unwrap_or_default()
    }

    fn empty_config(&self) -> Value {
        let (group, version, kind) = self.kind;
        json!({"apiVersion": format!("{group}/{version}"), "kind": kind, "metadata": {}})
    }
}

/// The merge patch that makes `new` of `old` (RFC 7386); null where nothing differs.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return if old == new { Value::Null } else { new.clone() };
    };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            Some(before) if before == value => {}
            Some(before @ Value::Object(_)) if value.is_object() => {
                patch.insert(name.clone(), difference(before, value));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    if patch.is_empty() { Value::Null } else { Value::Object(patch) }
}

fn kinds() -> impl Strategy<Value = GroupKind> {
    proptest::sample::select(KINDS)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn apply_is_idempotent(kind in kinds(), one: u64, two: u64) {
        let mut live = Live::new(kind);
        live.apply("a", &Dice(one).object(kind), false).unwrap();
        let config = Dice(two).object(kind);
        live.apply("b", &config, true).unwrap();
        let (once, owned) = (live.plain(), live.owned("b"));
        live.apply("b", &config, false).unwrap();
        prop_assert_eq!(&once, &live.plain());
        prop_assert_eq!(owned, live.owned("b"));
        // What was applied is what is there.
        let changes = walk::compare(&live.shape(), &once, &config);
        prop_assert!(changes.added.is_empty() && changes.modified.is_empty(), "{:?}", changes);
    }

    #[test]
    fn disjoint_managers_never_conflict(kind in kinds(), seed: u64) {
        let mut dice = Dice(seed);
        let whole = dice.object(kind);
        let mut live = Live::new(kind);
        let (one, two) = halves(&mut dice, &live.shape(), &whole);
        live.apply("a", &one, false).unwrap();
        live.apply("b", &two, false).unwrap();
        live.apply("a", &one, false).unwrap();
        // Together they say the whole.
        let changes = walk::compare(&live.shape(), &live.plain(), &whole);
        prop_assert!(changes.added.is_empty() && changes.modified.is_empty(), "{:?}", changes);
    }

    #[test]
    fn leaving_everything_out_gives_everything_up(kind in kinds(), seed: u64) {
        let mut dice = Dice(seed);
        let whole = dice.object(kind);
        let mut live = Live::new(kind);
        let (mut one, two) = halves(&mut dice, &live.shape(), &whole);
        // What every configuration says, also the empty one.
        for field in ["apiVersion", "kind"] {
            one[field] = live.empty_config()[field].clone();
        }
        live.apply("a", &one, false).unwrap();
        let (alone, owned) = (live.plain(), live.owned("a"));
        live.apply("b", &two, false).unwrap();
        let nothing = live.empty_config();
        live.apply("b", &nothing, false).unwrap();
        prop_assert!(live.owned("b").is_empty());
        prop_assert_eq!(owned, live.owned("a"));
        let changes = walk::compare(&live.shape(), &alone, &live.plain());
        prop_assert!(changes.is_empty(), "{:?}", changes);
    }

    #[test]
    fn owned_fields_survive_the_wire(kind in kinds(), seed: u64) {
        let shape = Live::new(kind).shape();
        let fields = walk::fields(&shape, &Dice(seed).object(kind));
        prop_assert_eq!(FieldSet::from_value(&fields.to_value()), Some(fields));
    }

    #[test]
    fn a_merge_patch_goes_there_and_once_there_is_empty(kind in kinds(), one: u64, two: u64) {
        let (old, new) = (Dice(one).object(kind), Dice(two).object(kind));
        let patch = difference(&old, &new);
        prop_assume!(!patch.is_null());
        let patched = merge_patch(&old, &patch).unwrap();
        prop_assert_eq!(&patched, &new);
        prop_assert_eq!(difference(&patched, &new), Value::Null);
        prop_assert_eq!(merge_patch(&patched, &patch).unwrap(), new);
    }

    #[test]
    fn a_strategic_patch_of_its_result_changes_nothing(kind in kinds(), one: u64, two: u64) {
        let (old, patch) = (Dice(one).object(kind), Dice(two).object(kind));
        let patched = strategic_merge(kind, old.clone(), &patch).unwrap();
        prop_assert_eq!(strategic_merge(kind, patched.clone(), &patch).unwrap(), patched);
    }
}
