//! The configuration as a tree in which every key and value knows where it was written.
//!
//! Invariant: a node's place lies in the source it names. What is not told apart here (units, names, ranges) is the
//! decoder's and the parser's matter.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::source::Place;
use crate::types::{KeyPath, Segment};

/// Tables within tables; the deepest key of ours is at seven.
const MAX_DEPTH: usize = 64;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// What it is.
    pub(super) value: Value,
    /// Where it stands; the key of a table that is written under a header.
    pub(super) place: Option<Place>,
    /// Its text before `${NAME}` was replaced.
    pub(super) written: Option<String>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// A date or time; nothing in the configuration has that type.
    Date(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A table.
    Table(Table),
    /// It was wrong and has been reported. Elements after it keep their index.
    Removed,
}

/// A table, sorted by key. Boxed, since a map takes the room of eleven entries for one.
pub(super) type Table = BTreeMap<String, Box<Entry>>;

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Where the key stands.
    pub(super) key: Place,
    /// Its value.
    pub(super) node: Node,
}

/// The identity of a configuration: SHA-256 of its resolved, merged tree. The order of files and keys does not count.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConfigHash([u8; 32]);

impl Node {
    /// A table at no place: the document itself.
    pub(super) fn table(table: Table) -> Self {
        Self { value: Value::Table(table), place: None, written: None }
    }

    /// The tree of one document.
    pub(super) fn from_document(document: &DeTable<'_>, source: usize, text: &str) -> Self {
        Self::table(table_of(document, source, text, 0))
    }

    /// Its entries, if it is a table.
    pub(super) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The value under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.as_table()?.get(key).map(|entry| &entry.node)
    }

    /// The value at a path.
    pub(super) fn at(&self, path: &KeyPath) -> Option<&Self> {
        path.segments().into_iter().try_fold(self, |node, segment| match (segment, &node.value) {
            (Segment::Key(key), Value::Table(table)) => table.get(&**key).map(|entry| &entry.node),
            (Segment::Index(index), Value::List(list)) => list.get(*index),
            _ => None,
        })
    }

    /// Where the value at `path` stands; where it does not exist, the key of the nearest thing around it.
    pub(super) fn locate(&self, path: &KeyPath, at_key: bool) -> Option<Place> {
        let mut node = self;
        let mut key = None;
        for segment in path.segments() {
            let next = match (segment, &node.value) {
                (Segment::Key(key), Value::Table(table)) => {
                    table.get(&**key).map(|entry| (entry.key, &entry.node))
                }
                (Segment::Index(index), Value::List(list)) => {
                    list.get(*index).and_then(|node| Some((node.place?, node)))
                }
                _ => None,
            };
            let Some((place, inner)) = next else { return key };
            key = Some(place);
            node = inner;
        }
        if at_key { key } else { node.place.or(key) }
    }

    /// Takes the value at `path` out; true if it was there.
    pub(super) fn remove(&mut self, path: &KeyPath) -> bool {
        let (Some(parent), Some(last)) = (path.parent(), path.last()) else {
            return false;
        };
        let Some(parent) = self.at_mut(parent) else { return false };
        match (last, &mut parent.value) {
            (Segment::Key(key), Value::Table(table)) => table.remove(&**key).is_some(),
            (Segment::Index(index), Value::List(list)) => {
                list.get_mut(*index).is_some_and(|node| {
                    !matches!(std::mem::replace(&mut node.value, Value::Removed), Value::Removed)
                })
            }
            _ => false,
        }
    }

    fn at_mut(&mut self, path: &KeyPath) -> Option<&mut Self> {
        path.segments().into_iter().try_fold(self, |node, segment| {
            match (segment, &mut node.value) {
                (Segment::Key(key), Value::Table(table)) => {
                    table.get_mut(&**key).map(|entry| &mut entry.node)
                }
                (Segment::Index(index), Value::List(list)) => list.get_mut(*index),
                _ => None,
            }
        })
    }

    /// Calls `visit` with every text and its path.
    pub(super) fn for_each_text(&mut self, visit: &mut impl FnMut(&KeyPath, &mut Self)) {
        self.walk(&KeyPath::root(), visit);
    }

    fn walk(&mut self, path: &KeyPath, visit: &mut impl FnMut(&KeyPath, &mut Self)) {
        match &mut self.value {
            Value::Text(_) => visit(path, self),
            Value::List(list) => {
                for (i, node) in list.iter_mut().enumerate() {
                    node.walk(&path.index(i), visit);
                }
            }
            Value::Table(table) => {
                for (key, entry) in table {
                    entry.node.walk(&path.key(key), visit);
                }
            }
            _ => {}
        }
    }

    /// The identity of this tree.
    pub(super) fn hash(&self) -> ConfigHash {
        let mut hasher = Sha256::new();
        self.hash_into(&mut hasher);
        ConfigHash(hasher.finalize().into())
    }

    fn hash_into(&self, hasher: &mut Sha256) {
        // Each value has its tag and its length, so that no two trees write the same bytes.
        let mut text = |tag: u8, text: &str| {
            hasher.update([tag]);
            hasher.update(length(text.len()));
            hasher.update(text);
        };
        match &self.value {
            Value::Bool(value) => text(b'b', if *value { "1" } else { "0" }),
            Value::Integer(value) => text(b'i', &value.to_string()),
            Value::Float(value) => text(b'f', &value.to_string()),
            Value::Date(value) => text(b'd', value),
            Value::Text(value) => text(b't', value),
            Value::Removed => text(b'r', ""),
            Value::List(list) => {
                hasher.update([b'l']);
                hasher.update(length(list.len()));
                for node in list {
                    node.hash_into(hasher);
                }
            }
            Value::Table(table) => {
                hasher.update([b'm']);
                hasher.update(length(table.len()));
                for (key, entry) in table {
                    hasher.update(length(key.len()));
                    hasher.update(key);
                    entry.node.hash_into(hasher);
                }
            }
        }
    }
}

/// A length for the hash. Files are far smaller than what four bytes can tell.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn table_of(table: &DeTable<'_>, source: usize, text: &str, depth: usize) -> Table {
    if depth > MAX_DEPTH {
        return Table::new();
    }
    let place = |span: std::ops::Range<usize>| Place { source, start: span.start, end: span.end };
    table
        .iter()
        .map(|(key, value)| {
            let key_place = place(key.span());
            let mut node = node_of(value.get_ref(), place(value.span()), source, text, depth + 1);
            let is_inline = text.as_bytes().get(value.span().start) == Some(&b'{');
            if matches!(node.value, Value::Table(_)) && !is_inline {
                node.place = Some(key_place);
            }
            (key.get_ref().to_string(), Box::new(Entry { key: key_place, node }))
        })
        .collect()
}

fn node_of(value: &DeValue<'_>, at: Place, source: usize, text: &str, depth: usize) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        // Beyond 64 bits it stays a number, of which the decoder says that it is none it can take.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::Float(f64::INFINITY), Value::Integer),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(list) => Value::List(
            list.iter()
                .filter(|_| depth <= MAX_DEPTH)
                .map(|item| {
                    let span = item.span();
                    let at = Place { source, start: span.start, end: span.end };
                    node_of(item.get_ref(), at, source, text, depth + 1)
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(table_of(table, source, text, depth)),
    };
    Node { value, place: Some(at), written: None }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigHash({self})")
    }
}

impl Serialize for ConfigHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        let document = DeTable::parse(text).unwrap();
        Node::from_document(document.get_ref(), 0, text)
    }

    fn located<'a>(text: &'a str, path: &KeyPath, at_key: bool) -> &'a str {
        let place = tree(text).locate(path, at_key).unwrap();
        &text[place.start..place.end]
    }

    #[test]
    fn values_keys_and_ancestors_are_located() {
        let text = "[a.b]\nx = \"one\"\nlist = [1, {k = 2}]\nin = {q = 1}\nd.e = 3\n";
        let b = KeyPath::of(&["a", "b"]);
        assert_eq!(located(text, &b.key("x"), false), "\"one\"");
        assert_eq!(located(text, &b.key("x"), true), "x");
        assert_eq!(located(text, &b.key("list").index(1).key("k"), false), "2");
        assert_eq!(located(text, &b.key("list").index(1), true), "{k = 2}");
        assert_eq!(located(text, &b.key("in"), false), "{q = 1}");
        assert_eq!(located(text, &b.key("d"), false), "d");
        assert_eq!(located(text, &b.key("d").key("e"), false), "3");
        assert_eq!(located(text, &b, false), "b");
        assert_eq!(located(text, &KeyPath::of(&["a"]), false), "a");
        assert_eq!(located(text, &b.key("none").key("x"), false), "b");
        assert_eq!(tree(text).locate(&KeyPath::of(&["z"]), false), None);
    }

    #[test]
    fn removing_an_element_keeps_the_index_of_the_others() {
        let mut tree = tree("a = [1, 2]\nb = 3");
        assert!(tree.remove(&KeyPath::of(&["a"]).index(0)));
        assert!(!tree.remove(&KeyPath::of(&["a"]).index(0)));
        assert!(tree.remove(&KeyPath::of(&["b"])));
        assert_eq!(tree.at(&KeyPath::of(&["a"]).index(1)).unwrap().value, Value::Integer(2));
        assert!(tree.get("b").is_none());
    }

    #[test]
    fn the_hash_knows_values_and_not_their_order() {
        assert_eq!(tree("a = 1\nb = [2]").hash(), tree("b = [ 2 ] # x\na = 1").hash());
        for other in ["a = 1\nb = [3]", "a = 1\nb = 2", "a = 1\nb = [\"2\"]", "a = 1", "ab = 1"] {
            assert_ne!(tree("a = 1\nb = [2]").hash(), tree(other).hash(), "{other}");
        }
    }
}
