//! Where a YAML document has a key twice, in upstream's words. For error messages only: the parse
//! that counts has listed the paths of these keys. And what is looked at before that parse.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::MAX_DEPTH;

/// Most keys that [`yaml_duplicates`] tells.
const MAX_YAML_DUPLICATES: usize = 10;
/// Stands on both sides of a key in an error; no key of YAML has it, since it must be escaped there.
const DUPLICATE_MARK: char = '\u{1}';

/// The keys that a YAML document has twice as upstream's parser tells them: `line 9: key "a" already
/// set in map`. Reads the text once for each of them, so it is for texts that have some.
pub fn yaml_duplicates(yaml: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < MAX_YAML_DUPLICATES {
        let skip = Cell::new(told.len());
        let deserializer = serde_yaml::Deserializer::from_slice(yaml);
        let Err(error) = (FirstDuplicate { skip: &skip, depth: 0 }).deserialize(deserializer)
        else {
            break;
        };
        // The key is all of the message; where it is, is added behind it.
        let (Some(at), text) = (error.location(), error.to_string()) else { break };
        let Some((key, _)) = text.rsplit_once(DUPLICATE_MARK) else { break };
        let key = key.rsplit_once(DUPLICATE_MARK).map_or(key, |(_, key)| key);
        told.push(format!("line {}: key {key:?} already set in map", at.line()));
    }
    told
}

/// The most brackets that are open at a place, wherever they stand: which of them are text is what the
/// parser would tell.
pub(super) fn open_brackets(yaml: &[u8]) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in yaml {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => continue,
        }
        most = most.max(open);
    }
    most
}

/// Fails at a key that its map has already, passing over the first ones.
#[derive(Clone, Copy)]
struct FirstDuplicate<'s> {
    skip: &'s Cell<usize>,
    depth: usize,
}

impl<'s> FirstDuplicate<'s> {
    fn deeper<E: de::Error>(self) -> Result<FirstDuplicate<'s>, E> {
        match self.depth < MAX_DEPTH {
            true => Ok(FirstDuplicate { depth: self.depth + 1, ..self }),
            false => Err(E::custom(format!("exceeded max depth of {MAX_DEPTH}"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for FirstDuplicate<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FirstDuplicate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while access.next_element_seed(self.deeper()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = access.next_key_seed(NewKey { seen: &seen, skip: self.skip })? {
            seen.insert(key);
            access.next_value_seed(self.deeper()?)?;
        }
        Ok(())
    }
}

/// A key; the error of one that was seen has the place of the key itself.
struct NewKey<'s> {
    seen: &'s HashSet<String>,
    skip: &'s Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        if self.seen.contains(key) {
            match self.skip.get().checked_sub(1) {
                Some(left) => self.skip.set(left),
                None => {
                    return Err(E::custom(format!("{DUPLICATE_MARK}{key}{DUPLICATE_MARK}")));
                }
            }
        }
        Ok(key.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_in_yaml_are_told_with_their_lines() {
        let text = b"\na: 1\nb:\n  c: [{d: 1, d: 2}]\n  \"c\": 2\na: {}\n";
        let told = yaml_duplicates(text);
        let line = |line, key| format!("line {line}: key {key:?} already set in map");
        assert_eq!(told, [line(4, "d"), line(5, "c"), line(6, "a")]);
        assert!(yaml_duplicates(b"a: {b: 1}").is_empty());
        assert!(yaml_duplicates(b": : [").is_empty());
    }
}
