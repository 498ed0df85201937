//! Rules of texts, with the names and words of class-validator's constraints.

use serde_json::Value;

/// What a text has to be.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// `isLength`.
    Length(usize, usize),
    /// `minLength`.
    Min(usize),
    /// `maxLength`.
    Max(usize),
    /// Something besides white space.
    NotBlank,
    /// `isNotEmpty`.
    NotEmpty,
    Email,
    Hexadecimal,
    Uuid,
    /// Any other check, with the name and text of its constraint.
    Custom(&'static str, &'static str, fn(&str) -> bool),
}

impl Rule {
    /// The constraint that `value` does not meet.
    pub(super) fn check(self, name: &str, value: Option<&Value>) -> Option<(&'static str, String)> {
        let text = value.and_then(Value::as_str);
        // Characters as validator.js counts them: a surrogate pair is one.
        let num_chars = text.map(|t| t.chars().count());
        let (is_met, key, message) = match self {
            Self::Length(min, max) => {
                // class-validator takes what JavaScript calls falsy, and a short array, for a text that is too short.
                let is_nothing = match value {
                    None | Some(Value::Null | Value::Bool(false)) => true,
                    Some(Value::Number(number)) => number.as_f64() == Some(0.0),
                    Some(Value::Array(items)) => items.len() < min,
                    _ => false,
                };
                let message = match num_chars {
                    Some(n) if n < min => format!("{name} must be longer than or equal to {min} characters"),
                    None if is_nothing => format!("{name} must be longer than or equal to {min} characters"),
                    Some(_) => format!("{name} must be shorter than or equal to {max} characters"),
                    None => format!(
                        "{name} must be longer than or equal to {min} and shorter than or equal to {max} characters"
                    ),
                };
                (num_chars.is_some_and(|n| (min..=max).contains(&n)), "isLength", message)
            }
            Self::Min(min) => (
                num_chars.is_some_and(|n| n >= min),
                "minLength",
                format!("{name} must be longer than or equal to {min} characters"),
            ),
            Self::Max(max) => (
                num_chars.is_some_and(|n| n <= max),
                "maxLength",
                format!("{name} must be shorter than or equal to {max} characters"),
            ),
            Self::NotBlank => (text.is_some_and(|t| !t.trim().is_empty()), "isNotBlank", String::new()),
            Self::NotEmpty => {
                (value.is_some_and(|v| !v.is_null() && v != ""), "isNotEmpty", format!("{name} should not be empty"))
            }
            Self::Email => (text.is_some_and(is_email), "isEmail", format!("{name} must be an email")),
            Self::Hexadecimal => (
                text.is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_hexdigit())),
                "isHexadecimal",
                format!("{name} must be a hexadecimal number"),
            ),
            Self::Uuid => {
                (text.is_some_and(|t| uuid::Uuid::try_parse(t).is_ok()), "isUuid", format!("{name} must be a UUID"))
            }
            Self::Custom(key, message, is_met) => (text.is_some_and(is_met), key, message.to_owned()),
        };
        (!is_met).then_some((key, message))
    }
}

/// Whether a text looks like an e-mail address: one `@`, a local part of the usual characters, a domain with a dot.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_local = !local.is_empty()
        && local.len() <= 64
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.bytes().all(|b| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b));
    let labels: Vec<_> = domain.split('.').collect();
    let is_label = |l: &&str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_top = labels.last().is_some_and(|top| top.len() >= 2 && !top.bytes().any(|b| b.is_ascii_digit()));
    is_local && domain.len() <= 254 && labels.len() >= 2 && labels.iter().all(is_label) && is_top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e_mail_addresses_are_told_from_other_texts() {
        for good in ["rita@example.org", "a.b+c@sub.example.dk"] {
            assert!(is_email(good), "{good}");
        }
        for bad in
            ["not-an-email", "@example.org", "a@b", "a@example.o1", "a b@example.org", "a@-x.org", "a..b@example.org"]
        {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
