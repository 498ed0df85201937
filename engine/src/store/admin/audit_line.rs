//! What the log lines say of a change or an attempt: a structured event for whoever reads those, and OS2iot's own line on
//! standard output, since operators collect and search that one:
//!
//! `[Nest] 4711  - 25/11/2026, 18:02:11     LOG [AuditLog] {"userId":1,"timestamp":"…","actionType":"CREATE","type":"Application","id":271,"name":"…","completed":true}`

use std::io::Write as _;

use chrono::{SecondsFormat, Utc};
use serde_json::json;
use sluse_schema::port::admin::{AuditAction, ChangedBy};

/// A line, once it is true.
#[derive(Debug)]
pub(super) struct AuditLine {
    pub action: AuditAction,
    /// The reference's name of the entity.
    pub kind: String,
    pub id: Option<i64>,
    pub name: Option<String>,
    pub is_success: bool,
}

impl AuditLine {
    /// Writes both forms.
    pub fn write(&self, by: &ChangedBy) {
        tracing::info!(
            target: "audit",
            user_id = by.user_id(),
            principal = by.kind.as_str(),
            action = self.action.as_str(),
            entity = self.kind,
            id = self.id,
            name = self.name,
            remote_address = by.remote_address,
            request_id = by.request_id,
            succeeded = self.is_success,
            "changed"
        );
        if let Some(line) = self.reference_line(by) {
            // Not `println!`: a closed pipe is no reason to fail what has already been done.
            drop(writeln!(std::io::stdout().lock(), "{line}"));
        }
    }

    /// The reference knows creating, changing and deleting only.
    fn reference_line(&self, by: &ChangedBy) -> Option<String> {
        if !matches!(self.action, AuditAction::Create | AuditAction::Update | AuditAction::Delete) {
            return None;
        }
        let now = Utc::now();
        let entry = json!({
            "userId": by.user_id(),
            "timestamp": now.to_rfc3339_opts(SecondsFormat::Millis, true),
            "actionType": self.action.as_str(),
            "type": self.kind,
            "id": self.id,
            "name": self.name,
            "completed": self.is_success,
        });
        let date = now.format("%d/%m/%Y, %H:%M:%S");
        Some(format!("[Nest] {}  - {date}     LOG [AuditLog] {entry}", std::process::id()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_line_has_its_keys_in_its_order() {
        let line = AuditLine {
            action: AuditAction::Create,
            kind: "Application".into(),
            id: Some(271),
            name: Some("a\nb".into()),
            is_success: true,
        };
        let text = line.reference_line(&ChangedBy::system()).unwrap();
        let (_, entry) = text.split_once("[AuditLog] ").unwrap();
        assert!(entry.starts_with(r#"{"userId":null,"timestamp":""#), "{entry}");
        let end = r#""actionType":"CREATE","type":"Application","id":271,"name":"a\nb","completed":true}"#;
        assert!(entry.ends_with(end), "{entry}");
        assert_eq!(text.lines().count(), 1);
        let log_in = AuditLine { action: AuditAction::LogIn, ..line };
        assert_eq!(log_in.reference_line(&ChangedBy::system()), None);
    }
}
