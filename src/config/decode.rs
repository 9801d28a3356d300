//! A serde deserializer over [`Node`] whose errors keep their path and what was expected.

use std::fmt;

use serde::{
    de::{
        self, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer,
        MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
        value::{StrDeserializer, UnitDeserializer},
    },
    forward_to_deserialize_any,
};

use super::tree::{Entry, Node, Value};
use crate::types::{KeyPath, Segment};

/// Why a node is not what it should be. serde stops at the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DecodeError {
    /// Where, from the root of what is decoded.
    pub(super) path: KeyPath,
    /// It is the key that is wrong.
    pub(super) at_key: bool,
    /// What is wrong.
    pub(super) kind: Kind,
}

/// What is wrong with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key that the table does not have.
    UnknownKey {
        /// The key.
        key: String,
        /// Those that it has.
        expected: &'static [&'static str],
    },
    /// A word that is none of a set.
    UnknownWord {
        /// The word.
        word: String,
        /// The set.
        expected: &'static [&'static str],
    },
    /// A value of another type or out of range.
    Mismatch {
        /// What was expected, in serde's words.
        expected: String,
        /// What is there.
        found: String,
        /// Its type is right, its value is not.
        is_value: bool,
    },
    /// A key that must be there is not.
    MissingKey(&'static str),
    /// What a type says about its text.
    Other(String),
}

impl DecodeError {
    fn new(kind: Kind) -> Self {
        Self { path: KeyPath::root(), at_key: false, kind }
    }

    fn within(mut self, segment: Segment) -> Self {
        self.path.prepend(segment);
        self
    }

    fn of_key(mut self, key: &str) -> Self {
        self.at_key = true;
        self.within(Segment::Key(key.into()))
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.path, self.kind)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Kind::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let (expected, found) = (expected.to_string(), in_words(found));
        Self::new(Kind::Mismatch { expected, found, is_value: false })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let (expected, found) = (expected.to_string(), in_words(found));
        Self::new(Kind::Mismatch { expected, found, is_value: true })
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        let (expected, found) = (expected.to_string(), format!("{length} of them"));
        Self::new(Kind::Mismatch { expected, found, is_value: true })
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownWord { word: word.to_owned(), expected })
    }

    fn unknown_field(key: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey { key: key.to_owned(), expected })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Kind::MissingKey(key))
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::custom(format!("the key \"{key}\" stands here twice"))
    }
}

fn in_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Str(text) => format!("the text \"{text}\""),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a table".to_owned(),
        other => other.to_string(),
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_i64(*number),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Date(_) => Err(DecodeError::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(list) => visitor.visit_seq(Elements { list: list.iter().enumerate() }),
            Value::Table(table) => {
                visitor.visit_map(Entries { table: table.iter(), current: None })
            }
            Value::Removed => visitor.visit_unit(),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum(StrDeserializer::<DecodeError>::new(text)),
            Value::Table(table) if table.len() == 1 => {
                let Some((key, entry)) = table.first_key_value() else {
                    return self.deserialize_any(visitor);
                };
                visitor.visit_enum(Variant { key, entry })
            }
            _ => {
                let expected = OneOf { name, variants };
                match self.deserialize_any(de::IgnoredAny) {
                    Ok(_) => Err(DecodeError::invalid_type(self.unexpected(), &expected)),
                    Err(error) => Err(error),
                }
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl Node {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Integer(number) => Unexpected::Signed(*number),
            Value::Float(number) => Unexpected::Float(*number),
            Value::Date(_) => Unexpected::Other("a date"),
            Value::Text(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Table(_) => Unexpected::Map,
            Value::Removed => Unexpected::Unit,
        }
    }
}

/// "one of `a`, `b`".
struct OneOf {
    name: &'static str,
    variants: &'static [&'static str],
}

impl Expected for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.variants.is_empty() {
            return f.write_str(self.name);
        }
        f.write_str(&words(self.variants))
    }
}

/// `"a", "b" or "c"`.
pub(super) fn words(list: &[&str]) -> String {
    let quoted: Vec<String> = list.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// The elements of a list; removed ones are passed over and keep their index.
struct Elements<'de> {
    list: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((i, node)) = self.list.find(|(_, node)| node.value != Value::Removed) else {
            return Ok(None);
        };
        seed.deserialize(node).map(Some).map_err(|error| error.within(Segment::Index(i)))
    }
}

/// The entries of a table.
struct Entries<'de> {
    table: std::collections::btree_map::Iter<'de, String, Box<Entry>>,
    current: Option<(&'de str, &'de Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let next = self.table.find(|(_, entry)| entry.node.value != Value::Removed);
        let Some((key, entry)) = next else { return Ok(None) };
        self.current = Some((key, &entry.node));
        let key_deserializer: StrDeserializer<'_, DecodeError> = key.as_str().into_deserializer();
        seed.deserialize(key_deserializer).map(Some).map_err(|error| error.of_key(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        let Some((key, node)) = self.current.take() else {
            return Err(DecodeError::custom("a value without a key"));
        };
        seed.deserialize(node).map_err(|error| error.within(Segment::Key(key.into())))
    }
}

/// A table with one key, as an enum.
struct Variant<'de> {
    key: &'de str,
    entry: &'de Entry,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        let key: StrDeserializer<'_, DecodeError> = self.key.into_deserializer();
        let value = seed.deserialize(key).map_err(|error| {
            let error = match error.kind {
                Kind::UnknownWord { word, expected } => {
                    DecodeError::new(Kind::UnknownKey { key: word, expected })
                }
                _ => error,
            };
            error.of_key(self.key)
        })?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        let key = self.key;
        de::Deserialize::deserialize(UnitDeserializer::<DecodeError>::new())
            .map_err(|error: DecodeError| error.within(Segment::Key(key.into())))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        seed.deserialize(&self.entry.node)
            .map_err(|error| error.within(Segment::Key(self.key.into())))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.entry
            .node
            .deserialize_any(visitor)
            .map_err(|error| error.within(Segment::Key(self.key.into())))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.tuple_variant(0, visitor)
    }
}
