//! An ordered map by namespace and name. In two steps, since keys of one namespace would be told
//! apart by their namespace first: a look into memory for each that is passed, and the same text
//! for each that is kept.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use crate::api::ObjectKey;

/// Values by key, in the order of namespaces, then names.
pub(super) struct Objects<V> {
    /// None of them is empty.
    spaces: BTreeMap<String, BTreeMap<String, V>>,
    len: usize,
}

impl<V> Default for Objects<V> {
    fn default() -> Self {
        Objects { spaces: BTreeMap::new(), len: 0 }
    }
}

impl<V> Objects<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<&V> {
        self.spaces.get(&key.namespace)?.get(&key.name)
    }

    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        self.get(key).is_some()
    }

    /// Sets a value to what `make` makes of the one before, and answers with that.
    pub(super) fn replace(
        &mut self,
        key: ObjectKey,
        make: impl FnOnce(Option<&V>) -> V,
    ) -> Option<V> {
        if !self.spaces.contains_key(&key.namespace) {
            self.spaces.insert(key.namespace.clone(), BTreeMap::new());
        }
        let Some(space) = self.spaces.get_mut(&key.namespace) else {
            unreachable!("it was put there")
        };
        match space.entry(key.name) {
            Entry::Vacant(vacant) => {
                vacant.insert(make(None));
                self.len += 1;
                None
            }
            Entry::Occupied(mut there) => {
                let new = make(Some(there.get()));
                Some(there.insert(new))
            }
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<V> {
        let space = self.spaces.get_mut(&key.namespace)?;
        let removed = space.remove(&key.name)?;
        if space.is_empty() {
            self.spaces.remove(&key.namespace);
        }
        self.len -= 1;
        Some(removed)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        self.spaces.iter().flat_map(|(namespace, space)| {
            space.keys().map(move |name| ObjectKey::new(namespace.as_str(), name.as_str()))
        })
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.spaces.values().flat_map(BTreeMap::values)
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &V> + use<'_, V> {
        self.spaces.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn count_in(&self, namespace: &str) -> usize {
        self.spaces.get(namespace).map_or(0, BTreeMap::len)
    }

    /// Works on at most so many values after a key. Answers with the key to go on after, if there
    /// are more.
    pub(super) fn visit(
        &mut self,
        after: Option<&ObjectKey>,
        most: usize,
        mut work: impl FnMut(&mut V),
    ) -> Option<ObjectKey> {
        let mut left = most;
        let first = after.map_or(Bound::Unbounded, |key| Bound::Included(key.namespace.as_str()));
        for (namespace, space) in self.spaces.range_mut::<str, _>((first, Bound::Unbounded)) {
            let begun = after.filter(|key| key.namespace == *namespace);
            let first = begun.map_or(Bound::Unbounded, |key| Bound::Excluded(key.name.as_str()));
            let mut last = None;
            for (name, value) in space.range_mut::<str, _>((first, Bound::Unbounded)) {
                if left == 0 {
                    // Nothing was visited here yet: go on after the last of what came before.
                    let name = last.map_or_else(String::new, |name: &String| name.clone());
                    return Some(ObjectKey::new(namespace.as_str(), name));
                }
                work(value);
                left -= 1;
                last = Some(name);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[(&str, &str)]) -> Objects<usize> {
        let mut objects = Objects::default();
        for (index, (namespace, name)) in keys.iter().enumerate() {
            objects.replace(ObjectKey::new(*namespace, *name), |_| index);
        }
        objects
    }

    #[test]
    fn values_come_in_order_and_are_counted() {
        let mut objects = objects(&[("b", "x"), ("a", "z"), ("", "node"), ("a", "y")]);
        let key = |namespace: &str, name: &str| ObjectKey::new(namespace, name);
        let all = [key("", "node"), key("a", "y"), key("a", "z"), key("b", "x")];
        assert!(objects.keys().eq(all));
        assert!(objects.values().eq(&[2, 3, 1, 0]));
        assert!(objects.in_namespace("a").eq(&[3, 1]));
        assert_eq!((objects.len(), objects.count_in("a"), objects.count_in("c")), (4, 2, 0));
        let before = objects.replace(key("a", "y"), |old| old.copied().unwrap_or_default() + 10);
        assert_eq!((before, objects.get(&key("a", "y"))), (Some(3), Some(&13)));
        assert_eq!(objects.remove(&key("b", "x")), Some(0));
        assert_eq!(objects.remove(&key("b", "x")), None);
        assert_eq!((objects.len(), objects.contains(&key("b", "x"))), (3, false));
    }

    #[test]
    fn each_value_is_visited_once_however_short_the_strides_are() {
        let keys = [("", "node"), ("a", "x"), ("a", "y"), ("b", "x"), ("c", "x"), ("c", "y")];
        for most in 1..=keys.len() + 1 {
            let mut objects = objects(&keys);
            let mut after = None;
            let mut seen = Vec::new();
            loop {
                after = objects.visit(after.as_ref(), most, |value| seen.push(*value));
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, [0, 1, 2, 3, 4, 5], "in strides of {most}");
        }
    }
}
