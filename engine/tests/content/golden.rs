//! Golden answers: what a route answers, with what differs from run to run replaced by its kind, held against a file.
//!
//! `UPDATE_GOLDEN=1` writes the files anew; read the difference before you commit it.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::engine::Answer;

/// Collects answers and compares all of them at the end.
#[derive(Debug, Default)]
pub struct Golden(Map<String, Value>);

impl Golden {
    /// Adds an answer, and hands its body on.
    pub fn add(&mut self, name: &str, (status, body): Answer) -> Value {
        let before = self.0.insert(name.to_owned(), serde_json::json!({"status": status, "body": scrubbed("", &body)}));
        assert!(before.is_none(), "{name} is there twice");
        body
    }

    /// Compares with `golden/<file>.json`.
    pub fn check(self, file: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/content/golden/{file}.json"));
        let got = Value::Object(self.0);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, format!("{got:#}\n")).unwrap();
            return;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let want: Value = serde_json::from_str(&text).unwrap();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&got), names(&want));
        for (name, got) in got.as_object().unwrap() {
            assert_eq!(*got, want[name], "{name}: got {got:#}, the golden file has {:#}", want[name]);
        }
    }
}

fn scrubbed(key: &str, value: &Value) -> Value {
    let is_id = key == "id" || key.ends_with("Id") || key.ends_with("Ids") || key == "createdBy" || key == "updatedBy";
    match value {
        Value::Number(_) if is_id || key == "belongsTo" => "<id>".into(),
        Value::String(text) => kind_of(text).map_or_else(|| text.clone(), str::to_owned).into(),
        Value::Array(items) => items.iter().map(|item| scrubbed(key, item)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), scrubbed(key, value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// What a text is when it is another every time.
fn kind_of(text: &str) -> Option<&'static str> {
    if text.len() == 24 && chrono::DateTime::parse_from_rfc3339(text).is_ok() {
        return Some("<time>");
    }
    if text.len() == 36 && uuid::Uuid::try_parse(text).is_ok() {
        return Some("<uuid>");
    }
    [
        ("-----BEGIN CERTIFICATE", "<certificate>"),
        ("-----BEGIN PRIVATE KEY", "<key>"),
        ("PBKDF2$sha512$1000$", "<hash>"),
        ("devices/", "<topic>"),
        ("https://iot.example.org/api/v1/open-data-dk-sharing/", "<share>"),
        ("http://127.0.0.1:", "<receiver>"),
    ]
    .into_iter()
    .find_map(|(start, kind)| text.starts_with(start).then_some(kind))
}
