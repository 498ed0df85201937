//! Secrets in answers and bodies. A reader sees [`MASK`]; whoever sends the mask back, or nothing, keeps what is stored, since
//! the web client sends whole objects; `""` clears it.

use serde_json::Value;
use sluse_schema::secret::Secret;

pub use crate::validate::MASK;
use crate::validate::Rule;

/// No text that PostgreSQL or MQTT holds has it, and no secret should be an exception.
pub const NO_NUL: Rule = Rule::Custom("matches", "a secret must be without NUL", |text| !text.contains('\0'));

/// How an answer shows secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// To readers, and in lists.
    Masked,
    /// To whoever may change the row. It is noted in the change log.
    Clear,
}

impl Secrets {
    /// A secret as the answer shows it: `null` when there is none.
    pub fn shown(self, secret: Option<&Secret>) -> Value {
        match (secret, self) {
            (None, _) => Value::Null,
            (Some(_), Self::Masked) => MASK.into(),
            (Some(secret), Self::Clear) => secret.reveal().into(),
        }
    }
}

/// Whether a value in a body says "as it is": nothing, `null` or the mask.
pub fn means_keep(sent: Option<&Value>) -> bool {
    match sent {
        None | Some(Value::Null) => true,
        Some(value) => value == MASK,
    }
}

/// The secret after a write.
pub fn merged(sent: Option<&Value>, stored: Option<&Secret>) -> Option<Secret> {
    if means_keep(sent) {
        return stored.cloned();
    }
    sent.and_then(Value::as_str).filter(|text| !text.is_empty()).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_mask_and_nothing_keep_a_secret_an_empty_text_clears_it_and_any_other_replaces_it() {
        let stored = Secret::new("old");
        for keep in [None, Some(json!(null)), Some(json!(MASK))] {
            assert_eq!(merged(keep.as_ref(), Some(&stored)), Some(stored.clone()));
            assert_eq!(merged(keep.as_ref(), None), None);
        }
        assert_eq!(merged(Some(&json!("")), Some(&stored)), None);
        assert_eq!(merged(Some(&json!("new")), Some(&stored)), Some(Secret::new("new")));
    }

    #[test]
    fn a_masked_answer_shows_whether_there_is_a_secret_and_never_which() {
        assert_eq!(Secrets::Masked.shown(Some(&Secret::new("s3cret"))), json!(MASK));
        assert_eq!(Secrets::Clear.shown(Some(&Secret::new("s3cret"))), json!("s3cret"));
        assert_eq!(Secrets::Clear.shown(None), json!(null));
    }
}
