//! Answers held against the API's own document: every answer that a test of this program gets has a documented status, the documented
//! content type, and a body that the documented schema allows.
//!
//! Limits: of JSON Schema only what the document uses (types, properties, items, references, `oneOf`, date-times, least values); a
//! property that the document does not name is allowed.

use std::sync::LazyLock;

use serde_json::Value;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../http/openapi.json")).unwrap();
    serde_json::from_str(&text).unwrap()
});

/// What is wrong with an answer; nothing for a path or a method that the document does not know.
pub fn problems(method: &str, path: &str, status: u16, content_type: &str, body: &str) -> Vec<String> {
    let Some(operation) = operation(method, path) else { return Vec::new() };
    if status == 500 {
        // Never right, and never documented: the tests that ask for one say what it is.
        return Vec::new();
    }
    let Some(response) = operation["responses"].get(status.to_string()) else {
        return vec![format!("the status {status} is not documented")];
    };
    let content = response["content"].as_object();
    let Some((documented, content)) = content.and_then(|content| content.iter().next()) else {
        return if body.is_empty() { Vec::new() } else { vec!["no body is documented".to_owned()] };
    };
    let is_json = documented == "application/json";
    if body.is_empty() {
        // Some answers say nothing where there is nothing, as the reference's do: their description says so.
        let may_be_empty = !is_json || response["description"].as_str().is_some_and(|text| text.starts_with("empty "));
        return if may_be_empty { Vec::new() } else { vec!["a body is documented, and there is none".to_owned()] };
    }
    let essence = content_type.split(';').next().unwrap_or_default();
    if essence != documented {
        return vec![format!("the content type is {content_type}, documented is {documented}")];
    }
    let mut found = Vec::new();
    if is_json {
        match serde_json::from_str(body) {
            Ok(value) => check(&content["schema"], &value, "body", &mut found),
            Err(error) => found.push(format!("the body is no JSON: {error}")),
        }
    }
    found
}

/// The operation of a path: of several the one with the fewest parameters.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let fits = |template: &str| {
        let named: Vec<&str> = template.split('/').collect();
        let is_same = |(named, part): (&&str, &&str)| named == part || (named.starts_with('{') && !part.is_empty());
        named.len() == parts.len() && named.iter().zip(&parts).all(is_same)
    };
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let (_, item) = paths
        .iter()
        .filter(|(template, _)| fits(template))
        .min_by_key(|(template, _)| template.matches('{').count())?;
    item.get(method.to_ascii_lowercase())
}

fn check(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let named = DOCUMENT.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not there"));
        return check(named, value, at, found);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let of_each: Vec<Vec<String>> = choices
            .iter()
            .map(|choice| {
                let mut wrong = Vec::new();
                check(choice, value, at, &mut wrong);
                wrong
            })
            .collect();
        if !of_each.iter().any(Vec::is_empty) {
            found.extend(of_each.into_iter().min_by_key(Vec::len).unwrap_or_default());
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of(name, value)) {
        return found.push(format!("{at} is {value:.60}, documented is {}", types.join(" or ")));
    }
    if schema["format"] == "date-time"
        && value.as_str().is_some_and(|text| chrono::DateTime::parse_from_rfc3339(text).is_err())
    {
        found.push(format!("{at} is {value}, documented is an instant"));
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        found.push(format!("{at} is {number}, documented is {least} at least"));
    }
    if let Value::Object(fields) = value {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                found.push(format!("{at} has no {name}"));
            }
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(value) = fields.get(name) {
                check(schema, value, &format!("{at}.{name}"), found);
            }
        }
    }
    if let Some(schema) = schema.get("items") {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            check(schema, item, &format!("{at}.{index}"), found);
        }
    }
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn a_wrong_answer_is_noticed() {
    let wrong = |status, body: &str| problems("GET", "/api/v1/organization/7", status, "application/json", body).len();
    assert!(wrong(200, "{}") >= 4, "what is required is missing");
    let right = r#"{"id":1,"name":"A","openDataDkRegistered":false,"createdAt":"2026-01-01T00:00:00.000Z",
        "updatedAt":"2026-01-01T00:00:00.000Z","createdBy":null,"updatedBy":1,"permissions":[],"more":true}"#;
    assert_eq!(wrong(200, right), 0);
    assert_eq!(wrong(200, &right.replace("\"A\"", "7")), 1);
    assert_eq!(wrong(200, &right.replace("2026-01-01T00:00:00.000Z", "soon")), 2);
    assert_eq!(wrong(418, "{}"), 1, "no teapot is documented");
    assert_eq!(problems("GET", "/api/v1/organization/7", 200, "text/html", right).len(), 1);
    assert!(problems("GET", "/api/v1/no-such-thing", 404, "", "").is_empty());
}
