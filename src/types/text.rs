//! Values that are written as text, and values that have more than one form, decoded so that a wrong one is explained.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::de::{Deserializer, Error, Visitor};

/// Decodes a text by its [`FromStr`]. `expecting` names what belongs there: "a duration such as \"5s\"".
pub(crate) fn deserialize<'de, T, D>(
    deserializer: D,
    expecting: &'static str,
) -> Result<T, D::Error>
where
    T: FromStr,
    T::Err: fmt::Display,
    D: Deserializer<'de>,
{
    struct Text<T>(&'static str, PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(expecting, PhantomData))
}

/// `Deserialize` for an enum whose variant is told by the form of what is written: `bool`, `text`, `number`, `list`, `table`.
///
/// serde's `untagged` tries each variant and forgets why it failed; this one keeps an unknown key inside a table, with its path.
macro_rules! deserialize_by_form {
    ($type:ident, $expecting:literal, { $($form:ident => $variant:ident),+ $(,)? }) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Forms;

                impl<'de> serde::de::Visitor<'de> for Forms {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }

                    $($crate::types::deserialize_by_form!(@$form $type $variant);)+
                }

                deserializer.deserialize_any(Forms)
            }
        }
    };
    (@bool $type:ident $variant:ident) => {
        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
            Ok($type::$variant(value))
        }
    };
    (@text $type:ident $variant:ident) => {
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let text = serde::de::value::StrDeserializer::new(text);
            serde::Deserialize::deserialize(text).map($type::$variant)
        }
    };
    (@number $type:ident $variant:ident) => {
        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
            let value = serde::de::value::I64Deserializer::new(value);
            serde::Deserialize::deserialize(value).map($type::$variant)
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
            let value = serde::de::value::U64Deserializer::new(value);
            serde::Deserialize::deserialize(value).map($type::$variant)
        }
    };
    (@list $type:ident $variant:ident) => {
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            let list = serde::de::value::SeqAccessDeserializer::new(list);
            serde::Deserialize::deserialize(list).map($type::$variant)
        }
    };
    (@table $type:ident $variant:ident) => {
        fn visit_map<A: serde::de::MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
            let table = serde::de::value::MapAccessDeserializer::new(table);
            serde::Deserialize::deserialize(table).map($type::$variant)
        }
    };
}

pub(crate) use deserialize_by_form;
