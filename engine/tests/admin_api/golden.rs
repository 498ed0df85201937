//! Answers held against golden files: shapes, constants and order of keys' names, with ids, times and keys taken out. With
//! `UPDATE_GOLDEN=1` the files are written anew; look at the difference before it is committed.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::fixture::Answer;

/// A file of named answers.
pub struct Golden {
    file: PathBuf,
    answers: Map<String, Value>,
}

impl Golden {
    pub fn new(name: &str) -> Self {
        let file = format!("{}/tests/admin_api/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        Self { file: file.into(), answers: Map::new() }
    }

    /// Adds an answer, and hands its body on.
    pub fn note(&mut self, name: &str, answer: Answer) -> Value {
        let (status, body) = answer;
        self.answers.insert(name.to_owned(), json!({"status": status, "body": plain("", body.clone())}));
        body
    }

    /// Compares everything with the file.
    pub fn check(self) {
        self.check_written(|found| serde_json::to_string_pretty(found).unwrap());
    }

    /// The same, for many short answers: each has its line in the file.
    pub fn check_lines(self) {
        self.check_written(|found| {
            let lines = found.as_object().unwrap().iter().map(|(name, answer)| format!("{}: {answer}", json!(name)));
            format!("{{\n{}\n}}", lines.collect::<Vec<_>>().join(",\n"))
        });
    }

    fn check_written(self, written: impl Fn(&Value) -> String) {
        let found = Value::Object(self.answers);
        if std::env::var("UPDATE_GOLDEN").is_ok_and(|v| v == "1") {
            std::fs::write(&self.file, format!("{}\n", written(&found))).unwrap();
            return;
        }
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let golden: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{:?}: {error}", self.file));
        for (name, answer) in golden.as_object().unwrap() {
            assert_eq!(&found[name], answer, "{name} in {:?}", self.file);
        }
        assert_eq!(found, golden);
    }
}

/// Without what differs from run to run.
fn plain(key: &str, value: Value) -> Value {
    let is_id = key == "id"
        || key == "sub"
        || ["Id", "Ids", "By", "_id", "_by", "_organizations", "organization"].iter().any(|end| key.ends_with(end));
    let is_random = ["key", "accessToken", "requestId", "remoteAddress", "credential", "timestamp"].contains(&key);
    match value {
        Value::Number(_) if is_id => json!("<id>"),
        Value::String(_) if is_random => json!(format!("<{key}>")),
        Value::String(text) if is_time(&text) => json!("<time>"),
        Value::String(text) => json!(without_uuids(&text)),
        Value::Array(items) => items.into_iter().map(|item| plain(key, item)).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = plain(&name, value);
                (name, value)
            })
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

fn is_time(text: &str) -> bool {
    text.len() >= 24 && chrono::DateTime::parse_from_rfc3339(text).is_ok()
}

/// A text with every UUID in it taken out.
fn without_uuids(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(is_part) {
        let end = rest[begin..].find(|c| !is_part(c)).map_or(rest.len(), |length| begin + length);
        plain.push_str(&rest[..begin]);
        let run = &rest[begin..end];
        plain.push_str(if run.len() == 36 && uuid::Uuid::try_parse(run).is_ok() { "<uuid>" } else { run });
        rest = &rest[end..];
    }
    plain + rest
}
