//! Values that are a name or a table of keys.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

/// A value that the file has as a name, or as a table where a name does not do.
pub(super) trait NameOrTable: Sized {
    /// Its keys.
    type Table: for<'de> Deserialize<'de>;
    /// What may stand there, for whoever wrote something else.
    const EXPECTED: &'static str;

    /// The value of this name.
    fn of_name(name: &str) -> Self;

    /// The value of this table.
    ///
    /// # Errors
    /// What is wrong with keys that are right each by itself.
    fn of_table(table: Self::Table) -> Result<Self, String>;
}

/// Reads a value of either form.
///
/// # Errors
/// If it has neither, or its table is none of these.
pub(super) fn deserialize<'de, T: NameOrTable, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Visitor(PhantomData))
}

struct Visitor<T>(PhantomData<T>);

impl<'de, T: NameOrTable> de::Visitor<'de> for Visitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<T, E> {
        Ok(T::of_name(name))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::of_table(T::Table::deserialize(MapAccessDeserializer::new(map))?).map_err(de::Error::custom)
    }
}
