//! Filters of list calls: `{"key":["v"]}` or `{"key":{"v":true}}`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::shape::Labels;

/// Values by key; of one key any may match, labels must all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("invalid filter '{0}'")]
    Key(String),
    #[error("invalid filter: {0}")]
    Json(String),
}

impl Filters {
    /// Reads the query value; a key that is not in `known` is refused.
    pub fn parse(text: &str, known: &[&str]) -> Result<Filters, FilterError> {
        let filters = Filters::parse_any(text)?;
        match filters.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::Key(key.clone())),
            None => Ok(filters),
        }
    }

    /// Reads the query value whatever its keys.
    pub fn parse_any(text: &str) -> Result<Filters, FilterError> {
        if text.is_empty() {
            return Ok(Filters::default());
        }
        let value: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|error| FilterError::Json(error.to_string()))?;
        let mut filters = BTreeMap::new();
        for (key, values) in value {
            let values: Vec<String> = match values {
                Value::Array(elements) => elements
                    .into_iter()
                    .map(|element| match element {
                        Value::String(text) => Ok(text),
                        other => Err(FilterError::Json(format!("{other} is not a string"))),
                    })
                    .collect::<Result<_, _>>()?,
                Value::Object(members) => members
                    .into_iter()
                    .filter(|(_, on)| *on != Value::Bool(false))
                    .map(|(value, _)| value)
                    .collect(),
                other => return Err(FilterError::Json(format!("{other} is neither a list nor a map"))),
            };
            filters.insert(key, values);
        }
        Ok(Filters(filters))
    }

    pub fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Replaces those values of a key that `map` has another for.
    pub fn set_if_there(&mut self, key: &str, map: impl Fn(&str) -> Option<String>) {
        for value in self.0.get_mut(key).into_iter().flatten() {
            if let Some(other) = map(value) {
                *value = other;
            }
        }
    }

    /// Whether `key` is not filtered by, or one of its values is `actual`.
    pub fn exact(&self, key: &str, actual: &str) -> bool {
        self.any(key, |wanted| wanted == actual)
    }

    /// Whether `key` is not filtered by, or one of its values begins `actual`.
    pub fn prefix(&self, key: &str, actual: &str) -> bool {
        self.any(key, |wanted| actual.starts_with(wanted))
    }

    pub fn any(&self, key: &str, matches: impl Fn(&str) -> bool) -> bool {
        let values = self.get(key);
        values.is_empty() || values.iter().any(|value| matches(value))
    }

    /// Whether every `k` or `k=v` of `key` is among `labels`.
    pub fn labels(&self, key: &str, labels: &Labels) -> bool {
        self.get(key).iter().all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|actual| actual == value),
            None => labels.contains_key(wanted),
        })
    }

    /// The query value again.
    pub fn encode(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let list = Filters::parse(r#"{"name":["a","b"]}"#, &["name"]).unwrap();
        let map = Filters::parse(r#"{"name":{"a":true,"b":true,"c":false}}"#, &["name"]).unwrap();
        assert_eq!(list, map);
        assert!(list.prefix("name", "abc"));
        assert!(!list.prefix("name", "cab"));
        assert!(list.exact("name", "a"));
        assert!(!list.exact("name", "ab"));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused() {
        let error = Filters::parse(r#"{"x":["a"]}"#, &["name"]).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'x'");
        assert!(Filters::parse(r#"{"name":3}"#, &["name"]).is_err());
        assert!(Filters::parse("name=a", &["name"]).is_err());
        assert!(Filters::parse("", &[]).is_ok());
    }

    #[test]
    fn labels_must_all_match() {
        let labels = Labels::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        let filters = |text| Filters::parse_any(text).unwrap();
        assert!(filters(r#"{"label":["a","b=2"]}"#).labels("label", &labels));
        assert!(!filters(r#"{"label":["a","b=3"]}"#).labels("label", &labels));
        assert!(filters("{}").labels("label", &labels));
    }
}
