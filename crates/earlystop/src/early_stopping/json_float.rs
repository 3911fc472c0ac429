//! Floating-point numbers in JSON, which has no NaN and no infinity of its own: they are written as the words `"NaN"`,
//! `"inf"` and `"-inf"`. For `#[serde(with = "json_float")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Number(*number).serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Number::deserialize(deserializer).map(|number| number.0)
}

/// The same for a number that may be missing.
pub(super) mod optional {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        number.map(Number).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(deserializer)?.map(|number| number.0))
    }
}

/// The same for named numbers. One that is `null` is missing.
pub(super) mod map {
    use std::collections::BTreeMap;

    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        numbers: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(numbers.iter().map(|(name, &number)| (name, Number(number))))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let read = BTreeMap::<String, Option<Number>>::deserialize(deserializer)?;
        Ok(read.into_iter().filter_map(|(name, number)| Some((name, number?.0))).collect())
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
struct Number(f64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Digits(f64),
    Word(String),
}

impl From<Number> for Written {
    fn from(Number(number): Number) -> Self {
        if number.is_finite() { Self::Digits(number) } else { Self::Word(number.to_string()) }
    }
}

impl TryFrom<Written> for Number {
    type Error = std::num::ParseFloatError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Digits(number) => Ok(Self(number)),
            Written::Word(word) => word.parse().map(Self),
        }
    }
}
