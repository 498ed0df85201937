//! What single values mean.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;

/// The value as an integer: 7, 7.0, never "7".
pub fn as_int(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64)
    })
}

/// What JavaScript makes of a value in a text: error texts of the reference name what was sent so.
pub fn as_javascript_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let texts: Vec<String> = items
                .iter()
                .map(|item| if item.is_null() { String::new() } else { as_javascript_text(item) })
                .collect();
            texts.join(",")
        }
        Value::Object(_) => "[object Object]".to_owned(),
        // Without exponents, and whole ones without a fraction.
        Value::Number(number) => {
            number.as_f64().filter(|n| n.abs() < 1e21).map_or(number.to_string(), |n| n.to_string())
        }
        other => other.to_string(),
    }
}

/// An instant (RFC 3339) or a day.
pub fn parse_date(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.with_timezone(&Utc));
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0)).map(|d| d.and_utc())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_read_in_texts_as_javascript_writes_them() {
        for (value, text) in [
            (json!("x"), "x"),
            (json!(1.5), "1.5"),
            (json!(1e20), "100000000000000000000"),
            (json!(true), "true"),
            (json!({"a": 1}), "[object Object]"),
            (json!(["a", null, [1, 2]]), "a,,1,2"),
            (json!([]), ""),
        ] {
            assert_eq!(as_javascript_text(&value), text);
        }
    }
}
